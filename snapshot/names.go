package snapshot

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
)

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// CheckName says whether s may name a container or a snapshot.
func CheckName(s string) error {
	if !namePattern.MatchString(s) {
		return &Error{Kind: KindInvalid, Op: "name", On: fmt.Sprintf("%q", s),
			Err:  errors.New("not a valid name"),
			Hint: "a name starts with a letter or a digit and goes on with letters, digits, '_', '.' and '-', at most 128 in all"}
	}
	return nil
}

// NewID returns a fresh container id: 32 hexadecimal digits from the kernel's random generator.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ShortID returns the first twelve digits of an id or digest, which is how people see it.
func ShortID(id string) string {
	if len(id) > 7 && id[:7] == "sha256:" {
		id = id[7:]
	}
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

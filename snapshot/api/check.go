package api

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/spec"
)

var hostnamePattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?$`)

func checkHostname(name string) error {
	if name != "" && !hostnamePattern.MatchString(name) {
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "host name", On: fmt.Sprintf("%q", name),
			Err: errors.New("not a valid host name"), Hint: "letters, digits, '-' and '.', at most 63 in all"}
	}
	return nil
}

// hostnameOf makes a host name of a container's name, where it can be one.
func hostnameOf(c *snapshot.Container) string {
	if hostnamePattern.MatchString(c.Name) {
		return c.Name
	}
	return snapshot.ShortID(c.ID)
}

// checkRun refuses what would otherwise fail deep inside, in somebody else's words.
func checkRun(r RunRequest) error {
	if err := checkHostname(r.Hostname); err != nil {
		return err
	}
	for _, v := range r.Volumes {
		source, _, _, err := spec.ParseVolume(v)
		if err != nil {
			return err
		}
		if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) {
			return &snapshot.Error{Kind: snapshot.KindNotFound, Op: "run", On: "volume " + source, Err: errors.New("no such path on this host"),
				Hint: "make it first: mkdir -p " + source + "; volumes have no names here, and a relative source is a path"}
		} else if err != nil {
			return fmt.Errorf("volume %s: %w", v, err)
		}
	}
	return nil
}

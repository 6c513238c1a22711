package spec

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// ParseUser turns UID, UID:GID, NAME or NAME:GROUP (or a mixture) into numbers with the help of /etc/passwd and
// /etc/group below rootfs. An empty s is root. A number need not be listed in these files; a name must be. Where s
// names no group, the user gets the primary group of passwd (else 0) and the groups that list it.
func ParseUser(rootfs, s string) (specs.User, error) {
	a, err := lookup(rootfs, s)
	return a.user, err
}

type account struct {
	user specs.User
	home string
}

// passwd and group entries, as far as they matter here.
type (
	passwdEntry struct {
		name     string
		uid, gid uint32
		home     string
	}
	groupEntry struct {
		name    string
		gid     uint32
		members []string
	}
)

func lookup(rootfs, s string) (account, error) {
	if s == "" {
		s = "0"
	}
	userPart, groupPart, hasGroup := strings.Cut(s, ":")
	if userPart == "" || hasGroup && groupPart == "" {
		return account{}, invalid("user", s, "is not UID, NAME, UID:GID or NAME:GROUP", "")
	}
	entry, err := findUser(rootfs, userPart)
	if err != nil {
		return account{}, err
	}
	groups, err := readGroups(rootfs)
	if err != nil {
		return account{}, err
	}
	a := account{user: specs.User{UID: entry.uid, GID: entry.gid}, home: entry.home}
	if hasGroup {
		if a.user.GID, err = findGroup(groups, groupPart); err != nil {
			return account{}, err
		}
	}
	// The primary group is among the additional ones as well: else a program that drops its effective group would
	// escape permissions that deny that group.
	a.user.AdditionalGids = []uint32{a.user.GID}
	for _, g := range groups {
		if !hasGroup && entry.name != "" && slices.Contains(g.members, entry.name) && !slices.Contains(a.user.AdditionalGids, g.gid) {
			a.user.AdditionalGids = append(a.user.AdditionalGids, g.gid)
		}
	}
	return a, nil
}

// findUser looks for a name first and a number then, since a name may consist of digits.
func findUser(rootfs, s string) (passwdEntry, error) {
	entries, err := readPasswd(rootfs)
	if err != nil {
		return passwdEntry{}, err
	}
	if i := slices.IndexFunc(entries, func(e passwdEntry) bool { return e.name == s }); i >= 0 {
		return entries[i], nil
	}
	uid, err := parseID(s)
	if err != nil {
		return passwdEntry{}, notListed("user", s, "/etc/passwd")
	}
	if i := slices.IndexFunc(entries, func(e passwdEntry) bool { return e.uid == uid }); i >= 0 {
		return entries[i], nil
	}
	return passwdEntry{uid: uid, home: "/"}, nil
}

func findGroup(groups []groupEntry, s string) (uint32, error) {
	if i := slices.IndexFunc(groups, func(g groupEntry) bool { return g.name == s }); i >= 0 {
		return groups[i].gid, nil
	}
	gid, err := parseID(s)
	if err != nil {
		return 0, notListed("group", s, "/etc/group")
	}
	return gid, nil
}

// parseID reads a user or group id. The largest ones mean "none" to the kernel or are negative in old programs.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err
}

func notListed(what, name, file string) error {
	return &snapshot.Error{Kind: snapshot.KindNotFound, Op: what, On: strconv.Quote(name),
		Err:  fmt.Errorf("not in %s of the root file system", file),
		Hint: "give its number, or a name that the image knows"}
}

func readPasswd(rootfs string) ([]passwdEntry, error) {
	var entries []passwdEntry
	err := eachLine(rootfs, "etc/passwd", func(f []string) {
		if len(f) < 4 {
			return
		}
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if err1 != nil || err2 != nil {
			return
		}
		e := passwdEntry{name: f[0], uid: uid, gid: gid, home: "/"}
		if len(f) > 5 && f[5] != "" {
			e.home = f[5]
		}
		entries = append(entries, e)
	})
	return entries, err
}

func readGroups(rootfs string) ([]groupEntry, error) {
	var groups []groupEntry
	err := eachLine(rootfs, "etc/group", func(f []string) {
		if len(f) < 3 {
			return
		}
		gid, err := parseID(f[2])
		if err != nil {
			return
		}
		g := groupEntry{name: f[0], gid: gid}
		if len(f) > 3 {
			g.members = strings.Split(f[3], ",")
		}
		groups = append(groups, g)
	})
	return groups, err
}

// eachLine calls f with the fields of each line of a file below rootfs. The file is the image author's: it is opened
// so that neither a symbolic link out of rootfs nor a named pipe does harm, and it may be missing.
func eachLine(rootfs, name string, f func(fields []string)) error {
	if rootfs == "" {
		return nil
	}
	file, err := openBeneath(rootfs, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "read", On: "/" + name + " of " + rootfs, Err: err}
	}
	defer file.Close()
	const most = 8 << 20
	lines := bufio.NewScanner(io.LimitReader(file, most))
	lines.Buffer(nil, most)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line != "" && !strings.HasPrefix(line, "#") {
			f(strings.Split(line, ":"))
		}
	}
	return lines.Err()
}

func openBeneath(rootfs, name string) (*os.File, error) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/opencontainers/cgroups"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Frozen says whether the cgroup's processes are stopped, or being stopped, by the freezer, and names the control file by
// which: its own, also where it is a cgroup above it that is frozen. A cgroup that does not exist is not frozen.
func (c *Cgroup) Frozen() (file string, frozen bool, err error) {
	if err := c.check(); err != nil {
		return "", false, err
	}
	for _, f := range []struct {
		hierarchy, name, thaw string
		frozen                func(string) bool
	}{
		// Version 1 says FREEZING until the last one has stopped.
		{"freezer", "freezer.state", "freezer.state", func(s string) bool { return s != "" && s != string(cgroups.Thawed) }},
		{"", "cgroup.events", "cgroup.freeze", func(s string) bool { return strings.Contains(s, "frozen 1") }},
		{"", "cgroup.freeze", "cgroup.freeze", func(s string) bool { return s == "1" }},
	} {
		says, err := c.read(f.hierarchy, f.name)
		if err != nil {
			return "", false, err
		}
		if f.frozen(says) {
			file, _ := c.file(f.hierarchy, f.thaw)
			return file, true, nil
		}
	}
	return "", false, nil
}

// Thaw lets the cgroup's processes go on. Where a cgroup above it is frozen that is an error in version 1, whose frozen
// processes cannot even be killed.
func (c *Cgroup) Thaw() error {
	if err := c.check(); err != nil {
		return err
	}
	for _, f := range []struct{ hierarchy, name, value string }{
		{"freezer", "freezer.state", string(cgroups.Thawed)},
		{"", "cgroup.freeze", "0"},
	} {
		file, ok := c.file(f.hierarchy, f.name)
		if !ok {
			continue
		}
		if err := os.WriteFile(file, []byte(f.value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("thaw cgroup %s: %w", c.path, err)
		}
	}
	// Its own state would say the same while its shim stops the processes of a dying container to kill them all at once.
	above, err := c.read("freezer", "freezer.parent_freezing")
	if err == nil && above == "1" {
		err = &snapshot.Error{Kind: snapshot.KindState, Op: "thaw cgroup", On: c.path, Err: errors.New("a cgroup above it is frozen"),
			Hint: "thaw that one"}
	}
	return err
}

// read returns what a control file says, or nothing where there is none.
func (c *Cgroup) read(hierarchy, name string) (string, error) {
	file, ok := c.file(hierarchy, name)
	if !ok {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

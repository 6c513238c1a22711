package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
)

// A cgroup of version 1 has from its parent, when it is made, the rules for devices, and the processors and memory nodes
// where the parent's cgroup.clone_children says so. The cgroup above those of all containers is set up so once; to make one
// of them is then a mkdir in each hierarchy, and a look at whether all that was inherited.

// Clones ends the name of a cgroup that is for cgroups of clones alone. They all have the same rules for devices, which a
// container that is started may add to.
const Clones = "-clones"

// inherits says whether the cgroup is made that way: a clone's, on a host that has the hierarchies of version 1 which
// containers need.
func (c *Cgroup) inherits() bool {
	_, err := c.Dir("devices")
	_, second := c.Dir("cpuset")
	parent := filepath.Dir(c.path)
	return errors.Join(err, second) == nil && len(holding(c.hierarchies)) > 1 && strings.HasSuffix(parent, Clones) && strings.Count(parent, "/") == 1
}

// inherit makes the cgroup, or takes over one that is there.
func (c *Cgroup) inherit() error {
	for _, mount := range holding(c.hierarchies) {
		if err := c.born(mount); err != nil {
			return err
		}
	}
	dir, err := c.Dir("devices")
	if err != nil {
		return err
	}
	if ok, err := hasDeviceRules(dir); err != nil {
		return err
	} else if !ok {
		if err := setDeviceRules(dir); err != nil {
			return fmt.Errorf("device rules: %w", err)
		}
	}
	return c.cpuset()
}

// tries is how often a parent is made that others, who found it empty, take away.
const tries = 100

// born makes the cgroup in one hierarchy. Whoever leaves a parent as its last child removes it, which may be between
// our finding it and having a child in it.
func (c *Cgroup) born(mount string) error {
	dir := filepath.Join(mount, c.path)
	for attempt := 0; ; attempt++ {
		err := syscall.Mkdir(dir, 0o755)
		if err == nil || err == syscall.EEXIST {
			return nil
		}
		if err != syscall.ENOENT || attempt == tries {
			return &os.PathError{Op: "mkdir", Path: dir, Err: err}
		}
		if err := c.bear(mount); err != nil {
			return err
		}
	}
}

// bear makes the parent in one hierarchy, unless somebody else does. Where there is something to be set up in it, it is made
// under another name and gets its own when that is done: rules cannot be set any more where there are children. The lock
// is on the directory itself, so what a killed process leaves behind is the next one's to go on with.
func (c *Cgroup) bear(mount string) error {
	parent := filepath.Join(mount, filepath.Dir(c.path))
	prepare := c.heritage(mount)
	if len(prepare) == 0 {
		return mkdir(parent)
	}
	making := parent + ".new"
	if err := mkdir(making); err != nil {
		return err
	}
	d, err := os.Open(making)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return os.NewSyscallError("flock "+making, err)
	}
	if ours, err := same(d, making); err != nil || !ours {
		return err
	}
	for _, f := range prepare {
		if err := f(making); err != nil {
			return fmt.Errorf("set up %s: %w", making, err)
		}
	}
	if err := syscall.Rename(making, parent); err != nil {
		_ = syscall.Rmdir(making)
		if err != syscall.EEXIST {
			return &os.LinkError{Op: "rename", Old: making, New: parent, Err: err}
		}
	}
	return nil
}

func mkdir(dir string) error {
	if err := syscall.Mkdir(dir, 0o755); err != nil && err != syscall.EEXIST {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// same says whether the directory is the one of that name, which it is not once somebody has renamed or removed it.
func same(d *os.File, name string) (bool, error) {
	held, err := d.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(held, named), err
}

// heritage returns what sets up, in the hierarchy, a cgroup for its children.
func (c *Cgroup) heritage(mount string) (prepare []func(dir string) error) {
	for name, at := range c.hierarchies {
		if at != mount {
			continue
		}
		controllers := strings.Split(name, ",")
		if slices.Contains(controllers, "devices") {
			prepare = append(prepare, setDeviceRules)
		}
		if slices.Contains(controllers, "cpuset") {
			prepare = append(prepare, func(dir string) error {
				if err := setCpuset(dir); err != nil {
					return err
				}
				return store(filepath.Join(dir, "cgroup.clone_children"), "1", 0)
			})
		}
	}
	return prepare
}

// hasDeviceRules says whether the rules of the cgroup in the hierarchy of devices are ours, no more and no fewer.
func hasDeviceRules(dir string) (bool, error) {
	list, err := fetch(filepath.Join(dir, "devices.list"))
	if err != nil {
		return false, err
	}
	lines := strings.Split(strings.TrimSuffix(list, "\n"), "\n")
	slices.Sort(lines)
	return slices.Equal(lines, listedRules()), nil
}

// listedRules returns our rules as the kernel lists them, sorted. What no rule allows is forbidden, and not listed.
var listedRules = sync.OnceValue(func() (lines []string) {
	for _, r := range deviceRules() {
		if r.Allow {
			lines = append(lines, r.CgroupString())
		}
	}
	slices.Sort(lines)
	return lines
})

func setDeviceRules(dir string) error {
	return cgroups.DevicesSetV1(dir, &cgroups.Resources{Devices: deviceRules()})
}

// cpuset makes sure that the cgroup has processors and memory nodes. It has the former if it has the latter: the kernel
// hands both down at once, and setCpuset sets the nodes last.
func (c *Cgroup) cpuset() error {
	dir, err := c.Dir("cpuset")
	if err != nil {
		return err
	}
	nodes, err := fetch(filepath.Join(dir, "cpuset.mems"))
	if err != nil || strings.TrimSpace(nodes) != "" {
		return err
	}
	return setCpuset(dir)
}

// setCpuset gives a cgroup, and those above it, what the next one above has, where there is nothing yet.
func setCpuset(dir string) error {
	return new(fs.CpusetGroup).Apply(dir, new(cgroups.Resources), -1)
}

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Hierarchies returns how many hierarchies hold a cgroup that [NewCgroup] makes: all of version 1, or that of version 2
// where it is the only one.
func Hierarchies() (int, error) {
	h, err := hierarchiesOnce()
	return len(holding(h)), err
}

// holding returns the mount points of the hierarchies that hold cgroups, sorted.
func holding(hierarchies map[string]string) []string {
	var mounts []string
	for name, mount := range hierarchies {
		if name != "" || len(hierarchies) == 1 {
			mounts = append(mounts, mount)
		}
	}
	slices.Sort(mounts)
	return mounts
}

// Entrances opens for each of the [Hierarchies] the file through which a process enters the cgroup: it writes 0 there,
// having one thread. On version 1 that waits for nothing, other than being moved by somebody else. The caller closes them.
func (c *Cgroup) Entrances() (files []*os.File, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	name := "tasks"
	if _, only := c.hierarchies[""]; only && len(c.hierarchies) == 1 {
		name = "cgroup.procs"
	}
	for _, mount := range holding(c.hierarchies) {
		file := filepath.Join(mount, c.path, name)
		fd, err := openPlain(file, syscall.O_WRONLY)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("cgroup %s: %w", c.path, err)
		}
		files = append(files, os.NewFile(uintptr(fd), file))
	}
	return files, nil
}

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Cgroup is a container's place in each cgroup hierarchy of the host: the same path below every one.
//
// On version 1, and where both versions are mounted, the hierarchies of version 1 hold it; the tree of version 2 then
// has no controllers, and is only looked at to clean up after others. Where there is version 2 alone, that is it.
type Cgroup struct {
	path        string
	hierarchies map[string]string // name as in /proc/PID/cgroup ("" is version 2) -> mount point
	err         error             // why hierarchies could not be read
}

// NewCgroup makes the cgroup and sets its limits; its processes may use the devices that every container has (null, zero,
// full, random, urandom, tty, pseudo terminals) and make nodes, but no more. The path is absolute and at least two levels
// deep, "/snapd-ctr/ID". A cgroup that exists is taken over.
func NewCgroup(path string, l snapshot.Limits) (*Cgroup, error) {
	c := OpenCgroup(path)
	if err := c.check(); err != nil {
		return nil, err
	}
	// The removal of another cgroup may take our parent away after we found or made it.
	for attempt := 0; ; attempt++ {
		err := c.create(l)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || attempt == 3 {
			return nil, errors.Join(fmt.Errorf("make cgroup %s: %w", path, err), c.Remove())
		}
	}
}

// OpenCgroup names a cgroup that may exist or not.
func OpenCgroup(path string) *Cgroup {
	h, err := hierarchiesOnce()
	return &Cgroup{path: path, hierarchies: h, err: err}
}

// Path returns the path below each hierarchy.
func (c *Cgroup) Path() string { return c.path }

// Dir returns the cgroup's directory in the hierarchy that /proc/PID/cgroup names so: "memory", "name=systemd", "" for
// version 2.
func (c *Cgroup) Dir(hierarchy string) (string, error) {
	if c.err != nil {
		return "", c.err
	}
	if mount, ok := c.hierarchies[hierarchy]; ok {
		return filepath.Join(mount, c.path), nil
	}
	// Another host may have mounted controllers together that were apart, or the other way round.
	for name, mount := range c.hierarchies {
		if slices.Contains(strings.Split(name, ","), firstOf(hierarchy)) {
			return filepath.Join(mount, c.path), nil
		}
	}
	return "", &snapshot.Error{Kind: snapshot.KindIncompatible, Op: "find cgroup hierarchy", On: fmt.Sprintf("%q", hierarchy),
		Err: errors.New("it is not mounted on this host")}
}

func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return first
}

// check says whether the cgroup may be made, emptied and removed: never a root of a hierarchy, nor what lies directly below,
// which belongs to the host.
func (c *Cgroup) check() error {
	if c.err != nil {
		return c.err
	}
	if !path.IsAbs(c.path) || path.Clean(c.path) != c.path || strings.Count(c.path, "/") < 2 {
		return fmt.Errorf("cgroup %q: want a clean absolute path of two levels or more", c.path)
	}
	return nil
}

// dirs returns the cgroup's directories that exist.
func (c *Cgroup) dirs() []string {
	var dirs []string
	for _, mount := range c.hierarchies {
		dir := filepath.Join(mount, c.path)
		if _, err := os.Lstat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// Place moves the process, all its threads, into the cgroup.
func (c *Cgroup) Place(pid int) error {
	if err := c.check(); err != nil {
		return err
	}
	dirs := c.dirs()
	if len(dirs) == 0 {
		return fmt.Errorf("place %d in cgroup %s: %w", pid, c.path, fs.ErrNotExist)
	}
	for _, dir := range dirs {
		if err := cgroups.WriteCgroupProc(dir, pid); err != nil {
			return fmt.Errorf("place %d in cgroup %s: %w", pid, c.path, err)
		}
	}
	return nil
}

// Pids returns the processes in the cgroup and in cgroups below it, sorted, zombies left out.
func (c *Cgroup) Pids() ([]int, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var all []int
	for _, dir := range c.dirs() {
		pids, err := cgroups.GetAllPids(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			return nil, fmt.Errorf("processes of cgroup %s: %w", c.path, err)
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Kill sends SIGKILL to all processes of the cgroup and waits until none is left or ctx ends. A frozen cgroup is thawed.
func (c *Cgroup) Kill(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		pids, err := c.killOnce()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill cgroup %s: %d processes left (%v …): %w", c.path, len(pids), pids[0], context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// killOnce kills what is there and returns it. Processes are stopped meanwhile, or those that fork would get away.
func (c *Cgroup) killOnce() (pids []int, err error) {
	if dir, ok := c.file("", "cgroup.kill"); ok {
		if err := os.WriteFile(dir, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("kill cgroup %s: %w", c.path, err)
		}
	}
	if pids, err = c.Pids(); err != nil {
		return nil, err
	}
	visitors, err := c.visitors(pids)
	if err != nil {
		return nil, err
	}
	if state, ok := c.file("freezer", "freezer.state"); ok && len(visitors) == 0 {
		freeze(state)
		// A frozen process of version 1 takes its SIGKILL once it is thawed.
		defer func() {
			if thaw := os.WriteFile(state, []byte(cgroups.Thawed), 0); thaw != nil && !errors.Is(thaw, fs.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("thaw cgroup %s: %w", c.path, thaw))
			}
		}()
		if pids, err = c.Pids(); err != nil {
			return nil, err
		}
		if visitors, err = c.visitors(pids); err != nil {
			return nil, err
		}
	}
	for _, pid := range pids {
		if !visitors[pid] {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
	}
	return pids, nil
}

// freeze stops the processes of a version 1 cgroup; it gives up after a moment, since a traced process may not stop.
func freeze(state string) {
	for range 10 {
		if err := os.WriteFile(state, []byte(cgroups.Frozen), 0); err != nil {
			return
		}
		b, err := os.ReadFile(state)
		if err != nil || strings.TrimSpace(string(b)) == string(cgroups.Frozen) {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// file returns the path of a control file of the cgroup, if it exists.
func (c *Cgroup) file(hierarchy, name string) (string, bool) {
	dir, err := c.Dir(hierarchy)
	if err != nil {
		return "", false
	}
	file := filepath.Join(dir, name)
	_, err = os.Lstat(file)
	return file, err == nil
}

// Remove deletes the cgroup, all cgroups below it and, once it is empty, its parent. Processes that are about to vanish
// are waited for, about two seconds in each hierarchy. A cgroup that does not exist is no error.
func (c *Cgroup) Remove() error {
	if err := c.check(); err != nil {
		return err
	}
	var errs []error
	for _, mount := range c.hierarchies {
		dir := filepath.Join(mount, c.path)
		if err := cgroups.RemovePath(dir); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
			continue
		}
		if strings.Count(c.path, "/") == 2 {
			removeChildless(filepath.Dir(dir))
		}
	}
	return errors.Join(errs...)
}

// removeChildless removes a cgroup that has no children. To be refused costs the lock of all cgroups, to ask does not.
func removeChildless(dir string) {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) == nil && st.Nlink <= 2 { // the cgroup's own, its parent's, and one of each child
		_ = syscall.Rmdir(dir) // somebody may have a child in it by now
	}
}

// Destroy ends all processes of the cgroup and removes it, as [Cgroup.Kill] and [Cgroup.Remove] do. A cgroup that has none
// left costs no more than the removal.
func (c *Cgroup) Destroy(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.vacant() {
		return c.Remove()
	}
	if err := c.Kill(ctx); err != nil {
		return err
	}
	return c.Remove()
}

// vacant removes the cgroup where nothing is in it, and says whether it was so in all hierarchies: that the kernel removes it
// is the one sure sign that there is no process in it, nor one just being born. The first that has something ends it, so
// that what lives loses no cgroup before it is killed.
func (c *Cgroup) vacant() bool {
	for _, mount := range c.hierarchies {
		if err := syscall.Rmdir(filepath.Join(mount, c.path)); err != nil && err != syscall.ENOENT {
			return false
		}
	}
	return true
}

// Cgroups returns the names of the cgroups below parent in any hierarchy, sorted.
func Cgroups(parent string) ([]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, mount := range all {
		entries, err := os.ReadDir(filepath.Join(mount, parent))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cgroups below %s: %w", parent, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// hierarchiesOnce reads them once for a process: in a shim with many clones the list of mounts is long.
var hierarchiesOnce = sync.OnceValues(hierarchies)

// hierarchies finds where our mount namespace has each cgroup hierarchy.
func hierarchies() (map[string]string, error) {
	mounts, err := proc.Mounts(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	found := make(map[string]string)
	for _, m := range mounts {
		if m.FSType != "cgroup" && m.FSType != "cgroup2" {
			continue
		}
		name := hierarchyOf(m)
		if _, ok := found[name]; !ok && strings.HasPrefix(m.Mountpoint, "/sys/fs/cgroup") {
			found[name] = m.Mountpoint
		}
	}
	if len(found) == 0 {
		return nil, &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "find cgroup hierarchies",
			Err: errors.New("none is mounted"), Hint: "mount a cgroup2 file system at /sys/fs/cgroup"}
	}
	return found, nil
}

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// Within runs f with the calling thread in the cgroup, so that processes which f starts are born there, and says whether
// it could. The thread must be locked to its goroutine. On version 1 a thread that moves itself does not wait for
// anything; to move a process that exists costs the kernel a grace period of RCU, often 10 ms. Version 2 does not let
// single threads move: there, and on a process's first thread, f runs outside, and what it starts has to be placed.
func (c *Cgroup) Within(f func() error) (inside bool, err error) {
	if err := c.check(); err != nil {
		return false, err
	}
	home, err := c.threadHome()
	if err != nil {
		return false, err
	}
	if len(home) == 0 || syscall.Gettid() == syscall.Getpid() { // the first thread stands for its process: see visitors
		return false, f()
	}
	for mount := range home {
		if err := moveThread(filepath.Join(mount, c.path)); err != nil {
			return false, errors.Join(err, goHome(home))
		}
	}
	return true, errors.Join(f(), goHome(home))
}

// threadHome returns where the calling thread is in each hierarchy of version 1: mount point -> path.
func (c *Cgroup) threadHome() (map[string]string, error) {
	cgroups, err := proc.Cgroups(syscall.Gettid())
	if err != nil {
		return nil, err
	}
	home := make(map[string]string)
	for name, path := range cgroups {
		if mount, known := c.hierarchies[name]; known && name != "" {
			home[mount] = path
		}
	}
	return home, nil
}

func goHome(home map[string]string) error {
	var errs []error
	for mount, path := range home {
		errs = append(errs, moveThread(filepath.Join(mount, path)))
	}
	return errors.Join(errs...)
}

// moveThread moves the calling thread: 0 means the writer itself.
func moveThread(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("0"); err != nil {
		return fmt.Errorf("move a thread to cgroup %s: %w", dir, err)
	}
	return nil
}

// visitors returns which of the processes are here with a single thread only, in [Cgroup.Within]: a shim, which must
// not die because a container is cleared away that it is about to make.
func (c *Cgroup) visitors(pids []int) (map[int]bool, error) {
	threads := make(map[int]bool)
	for _, dir := range c.dirs() {
		if err := readThreads(dir, threads); err != nil {
			return nil, err
		}
	}
	visitors := make(map[int]bool)
	for _, pid := range pids {
		if threads[pid] {
			continue
		}
		// Of a process whose first thread has ended the others are listed.
		if state, err := proc.State(pid); err == nil && state != 'Z' && state != 'X' {
			visitors[pid] = true
		}
	}
	return visitors, nil
}

// readThreads adds the threads of a cgroup and of those below it. Version 2 lists whole processes.
func readThreads(dir string, threads map[int]bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			var b []byte
			if b, err = os.ReadFile(filepath.Join(path, "tasks")); errors.Is(err, fs.ErrNotExist) {
				b, err = os.ReadFile(filepath.Join(path, "cgroup.procs"))
			}
			for line := range strings.Lines(string(b)) {
				if tid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
					threads[tid] = true
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EOPNOTSUPP) {
			return nil
		}
		return err
	})
}

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// Within runs f with the calling thread in the cgroup, so that processes which f starts are born there, and says whether
// it could. The thread must be locked to its goroutine. On version 1 a thread that moves itself does not wait for
// anything; to move a process that exists costs the kernel a grace period of RCU, often 10 ms. Version 2 does not let
// single threads move: there f runs outside, and what it starts has to be placed.
func (c *Cgroup) Within(f func() error) (inside bool, err error) {
	if err := c.check(); err != nil {
		return false, err
	}
	home, err := c.threadHome()
	if err != nil {
		return false, err
	}
	if len(home) == 0 {
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

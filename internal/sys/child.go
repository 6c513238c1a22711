package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// KillAndReap kills a child of this process and waits for its end. The init of a pid namespace takes every process of
// the namespace with it. A child that is gone already is no error.
func KillAndReap(pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	for {
		_, err := unix.Wait4(pid, nil, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, unix.ECHILD):
			return nil
		default:
			return fmt.Errorf("wait for %d: %w", pid, err)
		}
	}
}

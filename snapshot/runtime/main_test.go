package runtime

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestMain makes this process the reaper of what engines leave behind, and fails when something of theirs still runs,
// or is still mounted, after the last test.
func TestMain(m *testing.M) {
	const prSetChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		fmt.Fprintln(os.Stderr, "become a subreaper:", errno)
		os.Exit(1)
	}
	code := m.Run()
	if err := reapAll(10 * time.Second); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// reapAll waits until this process has no children left.
func reapAll(limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		switch {
		case err == syscall.ECHILD:
			return nil
		case err != nil && err != syscall.EINTR:
			return fmt.Errorf("wait4: %w", err)
		case pid > 0:
		case time.Now().After(deadline):
			tasks, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
			return fmt.Errorf("tests left processes behind: %s", tasks)
		default:
			time.Sleep(10 * time.Millisecond)
		}
	}
}

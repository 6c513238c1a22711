package runtime

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
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

// scratch returns a directory on a tmpfs of its own, where every kernel can stack overlays. What is left mounted in it
// when the test ends fails the test, and goes.
func scratch(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("running real engines needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "rt") // short: engines put unix sockets in it
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.MountTmpfs(dir, "size=512m,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b, _ := os.ReadFile("/proc/self/mountinfo")
		var left []string
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
				left = append(left, f[4])
			}
		}
		if len(left) > 0 {
			t.Errorf("left mounted: %v", left)
		}
		for i := len(left) - 1; i >= 0; i-- {
			_ = sys.Unmount(left[i])
		}
		if err := sys.Unmount(dir); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

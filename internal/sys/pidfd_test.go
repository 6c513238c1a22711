package sys_test

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

func start(t *testing.T, args ...string) *sys.Process {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := sys.OpenProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		_ = p.Close()
	})
	return p
}

func TestProcessStatus(t *testing.T) {
	for _, tc := range []struct {
		script string
		want   int
	}{{"exit 0", 0}, {"exit 7", 7}, {"kill -9 $$", 137}} {
		p := start(t, "sh", "-c", tc.script)
		if err := p.Exited(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := p.Reap()
		if err != nil || got != tc.want {
			t.Errorf("%s: status %d, %v; want %d", tc.script, got, err, tc.want)
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("signal after the end: %v", err)
		}
	}
}

func TestProcessStillRunning(t *testing.T) {
	p := start(t, "sleep", "60")
	if _, err := p.Reap(); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("reap of a running process: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Exited(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Exited with a deadline: %v", err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Exited(t.Context()); err != nil {
		t.Errorf("Exited after a deadline passed once: %v", err)
	}
}

func TestOpenProcessMissing(t *testing.T) {
	if _, err := sys.OpenProcess(1 << 22); !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.EINVAL) {
		t.Errorf("open of a process that is not there: %v", err)
	}
}

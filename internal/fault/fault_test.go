package fault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// point names the failpoint that a child process of the test comes to.
const point = "FAULT_TEST_POINT"

// TestMain is also the program that comes to a failpoint: what is armed is read once in the life of a process.
func TestMain(m *testing.M) {
	name := os.Getenv(point)
	if name == "" {
		os.Exit(m.Run())
	}
	began := time.Now()
	err := Point(name)
	fmt.Println(time.Since(began).Milliseconds(), errors.Is(err, ErrInjected), err)
}

// come runs a process in which faults are armed, and which comes to the failpoint name.
func come(t *testing.T, faults, name string) (ms int, injected bool, text string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	// The race detector would otherwise wait for a second before the process ends.
	cmd.Env = append(os.Environ(), Variable+"="+faults, point+"="+name, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.Output()
	if err != nil {
		return 0, false, "", err
	}
	f := strings.SplitN(strings.TrimSpace(string(out)), " ", 3)
	if len(f) != 3 {
		t.Fatalf("the process printed %q", out)
	}
	if ms, err = strconv.Atoi(f[0]); err != nil {
		t.Fatal(err)
	}
	return ms, f[1] == "true", f[2], nil
}

func TestPoint(t *testing.T) {
	const nothing = "<nil>"
	for _, c := range []struct {
		faults, name, want string
		injected           bool
		least              int // milliseconds
	}{
		{"", "a", nothing, false, 0},
		{"b=error", "a", nothing, false, 0},
		{"b=kill,a=error", "a", "injected fault at a", true, 0},
		{"a=sleep:150ms", "a", nothing, false, 150},
		{"a=sleep:long", "a", "failpoint a: time: invalid duration", false, 0},
		{"a=signal:/does/not/exist", "a", "no such file", false, 0},
		{"a=explode", "a", `failpoint a: unknown action "explode"`, false, 0},
	} {
		ms, injected, text, err := come(t, c.faults, c.name)
		if err != nil {
			t.Errorf("%q: %v", c.faults, err)
			continue
		}
		if injected != c.injected || !strings.Contains(text, c.want) || ms < c.least {
			t.Errorf("%q: %s, injected %v, after %d ms; want %s", c.faults, text, injected, ms, c.want)
		}
	}
}

func TestPointKills(t *testing.T) {
	_, _, _, err := come(t, "a=kill", "a")
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatalf("the process ended with %v", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v, want SIGKILL", err)
	}
}

func TestPointSignals(t *testing.T) {
	other := exec.Command("sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill() }()
	file := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(file, fmt.Appendln(nil, other.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, text, err := come(t, "a=signal:"+file, "a"); err != nil || text != "<nil>" {
		t.Fatalf("%s, %v", text, err)
	}
	_ = other.Wait()
	if status, ok := other.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the other process ended with %v, want SIGKILL", other.ProcessState)
	}
	if err := os.WriteFile(file, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, text, err := come(t, "a=signal:"+file, "a"); err != nil || !strings.Contains(text, "holds no process id") {
		t.Errorf("a signal to init: %s, %v", text, err)
	}
}

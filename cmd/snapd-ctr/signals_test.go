package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process starts the fake program as a process of its own, and waits until its service is at work.
func process(t *testing.T, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"snapd-ctr"}, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(stderr)
	expect(t, lines, "entered")
	return cmd, lines
}

func expect(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	if !lines.Scan() || !strings.Contains(lines.Text(), want) {
		t.Fatalf("line %q, want %q (%v)", lines.Text(), want, lines.Err())
	}
}

func exits(t *testing.T, cmd *exec.Cmd, code int) {
	t.Helper()
	stop := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
}

func TestInterruptCancels(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd, lines := process(t, "stop", "slow")
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		expect(t, lines, "snapd-ctr: stop: interrupted")
		exits(t, cmd, codeInterrupted)
	}
}

func TestInterruptJSON(t *testing.T) {
	cmd, lines := process(t, "clone", "slow", "--json")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	expect(t, lines, `{"type":"exit_error","code":130,"kind":"interrupted","message":"interrupted"`)
	exits(t, cmd, codeInterrupted)
}

// TestSecondInterruptLeaves has a service that does not come back.
func TestSecondInterruptLeaves(t *testing.T) {
	cmd, lines := process(t, "stop", "stuck")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	expect(t, lines, "cancelled")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	expect(t, lines, "left before everything was undone")
	expect(t, lines, "snapd-ctr fsck --repair")
	exits(t, cmd, codeInterrupted)
}

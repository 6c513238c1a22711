package sys

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestSetHostname(t *testing.T) {
	ours, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := SetHostname(cmd.Process.Pid, "renamed"); err != nil {
		t.Fatal(err)
	}
	if name, err := HostnameOf(cmd.Process.Pid); name != "renamed" || err != nil {
		t.Errorf("the process sees %q, %v", name, err)
	}
	if err := SetHostname(os.Getpid(), "must-not-be"); err != nil {
		t.Errorf("in our own namespace: %v", err)
	}
	if name, err := os.Hostname(); name != ours || err != nil {
		t.Errorf("the host is called %q now, it was %q (%v)", name, ours, err)
	}
	if err := SetHostname(1<<30, "x"); err == nil {
		t.Error("a process that does not exist was given a host name")
	}
}

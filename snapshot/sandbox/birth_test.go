package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestCgroupWithin starts a process in the cgroup, and finds the thread where it was before.
func TestCgroupWithin(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{})
	must(t, sys.Aside(func() error { within(t, c); return nil }))
}

func within(t *testing.T, c *Cgroup) {
	t.Helper()
	home, err := proc.Cgroups(syscall.Gettid())
	must(t, err)
	cmd := exec.Command("sleep", "600")
	inside, err := c.Within(cmd.Start)
	must(t, err)
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pids, err := c.Pids()
	must(t, err)
	if slices.Contains(pids, cmd.Process.Pid) != inside {
		t.Errorf("the process %d is born inside: %v; in the cgroup are %v", cmd.Process.Pid, inside, pids)
	}
	if _, v1 := c.hierarchies["memory"]; v1 && !inside {
		t.Error("with version 1 the process was born outside")
	}
	failed := errors.New("not started")
	if _, err := c.Within(func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("the error of what was called is lost: %v", err)
	}
	now, err := proc.Cgroups(syscall.Gettid())
	must(t, err)
	if !maps.Equal(now, home) {
		t.Errorf("the thread was in %v and is in %v", home, now)
	}
	none := OpenCgroup("/snapd-ctr-test-none/none")
	if inside, err := none.Within(func() error { return nil }); inside || (err == nil && len(c.hierarchies) > 1) {
		t.Errorf("inside a cgroup that does not exist: %v, %v", inside, err)
	}
	if now, err = proc.Cgroups(syscall.Gettid()); err != nil || !maps.Equal(now, home) {
		t.Errorf("the thread was in %v and is in %v after a failure, %v", home, now, err)
	}
}

// TestCgroupKillSparesVisitors kills the cgroup while a thread of this process is in it to start another: that one dies,
// and this process does not.
func TestCgroupKillSparesVisitors(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{})
	if _, v1 := c.hierarchies["memory"]; !v1 {
		return // a thread cannot be alone in a cgroup
	}
	cmd := exec.Command("sleep", "600")
	killed := make(chan error, 1)
	must(t, sys.Aside(func() error {
		inside, err := c.Within(func() error {
			if err := cmd.Start(); err != nil {
				return err
			}
			go func() { killed <- c.Kill(t.Context()) }()
			if err := cmd.Wait(); err == nil {
				return errors.New("the process born in the cgroup was not killed")
			}
			select {
			case err := <-killed:
				return fmt.Errorf("the kill did not wait for the visitor: %w", err)
			default:
				return nil
			}
		})
		if err == nil && !inside {
			err = errors.New("nothing was born inside")
		}
		return err
	}))
	must(t, <-killed)
}

func TestCgroupSetLimits(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{})
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	must(t, c.Place(cmd.Process.Pid))
	check := func() {
		t.Helper()
		if got := controlFile(t, c, "memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
			t.Errorf("the memory limit is %s", got)
		}
		if got := controlFile(t, c, "pids", "pids.max", "pids.max"); got != "17" {
			t.Errorf("the limit of processes is %s", got)
		}
		if got := controlFile(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
			t.Errorf("the processor quota is %s", got)
		}
	}
	must(t, c.SetLimits(snapshot.Limits{MemoryBytes: 64 << 20, CPUs: 0.5, Pids: 17}))
	check()
	must(t, c.SetLimits(snapshot.Limits{})) // nothing is asked for
	check()
	if err := OpenCgroup("/one").SetLimits(snapshot.Limits{Pids: 1}); err == nil {
		t.Error("limits were set on a cgroup of the host")
	}
}

package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// testCgroup makes a cgroup that nothing else uses and sees it gone at the end.
func testCgroup(t *testing.T, l snapshot.Limits) *Cgroup {
	t.Helper()
	parent := fmt.Sprintf("/sandbox-test-cgroup-%d", os.Getpid())
	began := time.Now()
	c, err := NewCgroup(parent+"/"+snapshot.NewID(), l)
	must(t, err)
	t.Logf("NewCgroup: %v", time.Since(began))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		must(t, c.Kill(ctx))
		must(t, c.Remove())
		must(t, c.Remove())
		if left := c.dirs(); len(left) != 0 {
			t.Errorf("left after Remove: %v", left)
		}
	})
	return c
}

func controlFile(t *testing.T, c *Cgroup, v1hierarchy, v1name, v2name string) string {
	t.Helper()
	hierarchy, name := v1hierarchy, v1name
	if _, ok := c.hierarchies[v1hierarchy]; !ok {
		hierarchy, name = "", v2name
	}
	dir, err := c.Dir(hierarchy)
	must(t, err)
	b, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return strings.TrimSpace(string(b))
}

func TestCgroupLimits(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{MemoryBytes: 64 << 20, CPUs: 0.5, Pids: 17})
	for _, want := range [][4]string{
		{"memory", "memory.limit_in_bytes", "memory.max", "67108864"},
		{"pids", "pids.max", "pids.max", "17"},
	} {
		if got := controlFile(t, c, want[0], want[1], want[2]); got != want[3] {
			t.Errorf("%s is %s, want %s", want[1], got, want[3])
		}
	}
	if got := controlFile(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
		t.Errorf("processor quota is %s, want 50000", got)
	}
	if _, ok := c.hierarchies["devices"]; ok {
		if got := controlFile(t, c, "devices", "devices.list", ""); strings.Contains(got, "a *:*") || !strings.Contains(got, "c 1:3 rwm") {
			t.Errorf("devices allowed:\n%s", got)
		}
	}
}

func TestCgroupPlace(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{})
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	must(t, c.Place(cmd.Process.Pid))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	must(t, err)
	if !strings.Contains(string(b), c.Path()) {
		t.Errorf("after Place the process is in\n%s", b)
	}
	pids, err := c.Pids()
	must(t, err)
	if len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("Pids() = %v, want [%d]", pids, cmd.Process.Pid)
	}
	must(t, c.Kill(t.Context()))
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself, not by a signal")
	}
	if err := OpenCgroup("/snapd-ctr-test-none/none").Place(os.Getpid()); err == nil {
		t.Error("a process was placed in a cgroup that does not exist")
	}
}

// TestCgroupKillForks kills a tree that never stops forking and whose processes end quickly.
func TestCgroupKillForks(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{Pids: 200})
	cmd := exec.Command("sh", "-c", `read go; f() { while :; do sleep 0.02 & (f) & sleep 0.01; done; }; f`)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	must(t, c.Place(cmd.Process.Pid))
	_, err = stdin.Write([]byte("\n"))
	must(t, err)
	until(t, "50 processes", func() bool {
		pids, err := c.Pids()
		must(t, err)
		return len(pids) > 50
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	must(t, c.Kill(ctx))
	_ = cmd.Wait()
	pids, err := c.Pids()
	must(t, err)
	if len(pids) != 0 {
		t.Errorf("left after Kill: %v", pids)
	}
}

func TestCgroupsAndRemove(t *testing.T) {
	parent := fmt.Sprintf("/sandbox-test-list-%d", os.Getpid())
	for _, name := range []string{"b", "a"} {
		c, err := NewCgroup(parent+"/"+name, snapshot.Limits{})
		must(t, err)
		for _, dir := range c.dirs() { // a container may make cgroups of its own
			must(t, os.MkdirAll(dir+"/inner/most", 0o755))
		}
	}
	names, err := Cgroups(parent)
	must(t, err)
	if strings.Join(names, " ") != "a b" {
		t.Errorf("Cgroups = %v, want [a b]", names)
	}
	for _, name := range names {
		must(t, OpenCgroup(parent+"/"+name).Remove())
	}
	if names, err := Cgroups(parent); err != nil || len(names) != 0 {
		t.Errorf("after Remove: %v, %v", names, err)
	}
	if left := OpenCgroup(parent).dirs(); len(left) != 0 {
		t.Errorf("the parent is still there: %v", left)
	}
}

func TestCgroupRefusesTheHostsOwn(t *testing.T) {
	for _, path := range []string{"", "/", "/system.slice", "/a/../..", "a/b", "/a/b/"} {
		c := OpenCgroup(path)
		if err := c.Kill(t.Context()); err == nil {
			t.Fatalf("Kill of %q was not refused", path)
		}
		if err := c.Remove(); err == nil {
			t.Errorf("Remove of %q was not refused", path)
		}
		if _, err := NewCgroup(path, snapshot.Limits{}); err == nil {
			t.Errorf("NewCgroup of %q was not refused", path)
		}
	}
}

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// needsInheritance skips where cgroups are not of version 1, which alone has them inherit.
func needsInheritance(t *testing.T) {
	t.Helper()
	const name = "cgroup-v1-inheritance"
	probetest.NeedProbe(t, probe.Probe{Name: name, Need: "cgroups that have their parent's rules", Run: func(context.Context) error {
		if OpenCgroup("/sandbox-test" + Clones + "/any").inherits() {
			return nil
		}
		return &probe.NotSupported{Name: name, Why: "the host does not have the hierarchies devices and cpuset of cgroup version 1",
			Remedy: "run the tests on a host that has them"}
	}})
}

// tryDevices starts a shell in the cgroup, and returns what it says of opening and making devices.
func tryDevices(t *testing.T, c *Cgroup) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `read go
		echo x > /dev/null && echo null
		mknod mem c 1 1 && echo made
		head -c 1 mem > /dev/null && echo mem
		head -c 1 /dev/zero > /dev/null && echo zero`)
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	must(t, err)
	var out strings.Builder
	cmd.Stdout = &out
	must(t, cmd.Start())
	must(t, c.Place(cmd.Process.Pid))
	_, err = stdin.Write([]byte("\n"))
	must(t, err)
	_ = cmd.Wait() // its last command decides how it ends
	return strings.Join(strings.Fields(out.String()), " ")
}

func TestDeviceRulesAreInForce(t *testing.T) {
	clone, err := NewCgroup(fmt.Sprintf("/sandbox-test-rules-%d"+Clones+"/c", os.Getpid()), snapshot.Limits{})
	must(t, err)
	t.Cleanup(func() { must(t, clone.Destroy(context.Background())) })
	for what, c := range map[string]*Cgroup{"container": testCgroup(t, snapshot.Limits{}), "clone": clone} {
		if got, want := tryDevices(t, c), "null made zero"; got != want {
			t.Errorf("in a %s's cgroup these work: %s; want %s", what, got, want)
		}
	}
}

// TestParentOfAnOlderVersion makes cgroups below one that has children already, and no rules, processors or memory nodes.
func TestParentOfAnOlderVersion(t *testing.T) {
	needsInheritance(t)
	parent := fmt.Sprintf("/sandbox-test-older-%d"+Clones, os.Getpid())
	old := OpenCgroup(parent + "/old")
	for _, mount := range holding(old.hierarchies) {
		must(t, os.MkdirAll(filepath.Join(mount, old.path), 0o755))
	}
	t.Cleanup(func() { must(t, old.Destroy(context.Background())) })
	for i := range 2 {
		c, err := NewCgroup(fmt.Sprint(parent, "/new", i), snapshot.Limits{})
		must(t, err)
		if got, want := tryDevices(t, c), "null made zero"; got != want {
			t.Errorf("below an old parent these work: %s; want %s", got, want)
		}
		must(t, c.Destroy(t.Context()))
	}
	// One that is there, but was never set up, is taken over.
	c, err := NewCgroup(old.path, snapshot.Limits{})
	must(t, err)
	if got, want := tryDevices(t, c), "null made zero"; got != want {
		t.Errorf("in an old cgroup these work: %s; want %s", got, want)
	}
}

// TestParentLeftInTheMaking goes on where a process was killed while it set up a parent.
func TestParentLeftInTheMaking(t *testing.T) {
	needsInheritance(t)
	parent := fmt.Sprintf("/sandbox-test-making-%d"+Clones, os.Getpid())
	c := OpenCgroup(parent + "/c")
	devices, err := c.Dir("devices")
	must(t, err)
	making := filepath.Dir(devices) + ".new"
	must(t, os.Mkdir(making, 0o755))
	must(t, os.WriteFile(making+"/devices.deny", []byte("a"), 0))
	c, err = NewCgroup(c.path, snapshot.Limits{})
	must(t, err)
	if ok, err := hasDeviceRules(filepath.Dir(devices)); err != nil || !ok {
		t.Errorf("the parent has the rules: %v, %v", ok, err)
	}
	if _, err := os.Lstat(making); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", making, err)
	}
	must(t, c.Destroy(t.Context()))
	if left := OpenCgroup(parent).dirs(); len(left) != 0 {
		t.Errorf("the parent is left: %v", left)
	}
}

// TestCgroupsComeAndGo has several processes make and remove cgroups, so that the parent is removed again and again by the
// last one while others make theirs.
func TestCgroupsComeAndGo(t *testing.T) {
	const role, rounds = "SANDBOX_TEST_COME_AND_GO", 60
	if parent := os.Getenv(role); parent != "" {
		for i := range rounds {
			c, err := NewCgroup(fmt.Sprintf("%s/%d-%d", parent, os.Getpid(), i), snapshot.Limits{})
			must(t, err)
			dir, err := c.Dir("devices")
			if err == nil {
				var ok bool
				if ok, err = hasDeviceRules(dir); err == nil && !ok {
					err = errors.New("a cgroup was born without rules")
				}
				must(t, err)
			}
			must(t, c.Destroy(t.Context()))
		}
		return
	}
	parent := fmt.Sprintf("/sandbox-test-races-%d"+Clones, os.Getpid())
	var others []*exec.Cmd
	for range 4 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestCgroupsComeAndGo$", "-test.count=1")
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, inside+"=") }), role+"="+parent)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out := new(strings.Builder)
		cmd.Stdout, cmd.Stderr = out, out
		must(t, cmd.Start())
		others = append(others, cmd)
	}
	for _, cmd := range others {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, cmd.Stdout)
		}
	}
	for _, name := range []string{parent, parent + ".new"} {
		if left := OpenCgroup(name).dirs(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestDestroy(t *testing.T) {
	c, err := NewCgroup(fmt.Sprintf("/sandbox-test-destroy-%d"+Clones+"/c", os.Getpid()), snapshot.Limits{})
	must(t, err)
	t.Cleanup(func() { must(t, c.Destroy(context.Background())) })
	for _, dir := range c.dirs() {
		must(t, os.Mkdir(dir+"/inner", 0o755))
	}
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	must(t, OpenCgroup(c.path+"/inner").Place(cmd.Process.Pid))
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	must(t, c.Destroy(ctx))
	select {
	case err := <-done:
		if err == nil {
			t.Error("the process ended by itself, not by a signal")
		}
	case <-ctx.Done():
		t.Error("the process lives on")
	}
	if left := c.dirs(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	must(t, c.Destroy(ctx))
	if err := OpenCgroup("/system.slice").Destroy(ctx); err == nil {
		t.Error("a cgroup of the host's own was not refused")
	}
}

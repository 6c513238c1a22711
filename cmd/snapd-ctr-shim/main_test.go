package main

import (
	"context"
	"encoding/json"
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

	"github.com/opencontainers/runc/libcontainer"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/spec"
)

const (
	inside     = "SHIM_TEST_INSIDE" // set in the process that runs the tests
	shimBinary = "SHIM_TEST_BINARY"
)

// TestMain builds the shim and runs the tests in a network namespace of their own, so that no interface stays on the
// host. The test process takes in what shims leave, orphans included: the tests see who is left, and reap them.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // for tests that are a shim themselves
	}
	if os.Getenv(inside) != "" {
		const setChildSubreaper = 36
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
			fmt.Fprintln(os.Stderr, "become the reaper of orphans:", errno)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func outside() (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("these tests need root: they run containers")
	}
	dir, err := os.MkdirTemp("", "shim-test-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "snapd-ctr-shim")
	args := []string{"build", "-race", "-o", binary}
	if exec.Command("pkg-config", "--exists", "libseccomp").Run() == nil {
		args = append(args, "-tags", "seccomp")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the shim: %w\n%s", err, out)
	}
	// The shim gets no environment of ours, and the race detector would rest for a second at each exit.
	wrapper := filepath.Join(dir, "shim")
	script := "#!/bin/sh\nexport GORACE=atexit_sleep_ms=0\nexec " + binary + ` "$@"` + "\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1", shimBinary+"="+wrapper)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// host is a place for containers: directories, a busybox root file system, and a shim.
type host struct {
	*testing.T
	paths  shim.Paths
	rootfs string
	parent string // of the cgroups
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{T: t, rootfs: filepath.Join(dir, "rootfs"), parent: "/shim-test-" + strconv.Itoa(os.Getpid())}
	h.paths = shim.Paths{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), CRIU: "/bin/false",
		Bridge: "shimtest0", Subnet: "10.213.0.0/24"}
	h.busybox()
	t.Cleanup(func() { h.removeCgroupParent() })
	return h
}

// busybox fills the root file system.
func (h *host) busybox() {
	h.Helper()
	source, err := exec.LookPath("busybox")
	if err != nil {
		h.Fatal("needs a static busybox (Debian: busybox-static)")
	}
	b, err := os.ReadFile(source)
	if err != nil {
		h.Fatal(err)
	}
	for _, dir := range []string{"bin", "etc", "tmp", "home/web"} {
		if err := os.MkdirAll(filepath.Join(h.rootfs, dir), 0o755); err != nil {
			h.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"bin/busybox": string(b),
		"etc/passwd":  "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n",
		"etc/group":   "root:x:0:\nweb:x:1001:\nextra:x:1002:web\n",
		"etc/notexec": "data",
	} {
		if err := os.WriteFile(filepath.Join(h.rootfs, name), []byte(content), 0o644); err != nil {
			h.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(h.rootfs, "bin/busybox"), 0o755); err != nil {
		h.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "cat", "id", "env", "pwd", "true", "ls", "ip", "tty", "stty", "hostname", "mount", "kill", "touch", "yes", "head"} {
		if err := os.Symlink("busybox", filepath.Join(h.rootfs, "bin", name)); err != nil {
			h.Fatal(err)
		}
	}
}

// spawn starts a shim that ends with the test, with failpoints armed.
func (h *host) spawn(group, faults string) *shim.Client {
	h.Helper()
	h.Setenv(fault.Variable, faults)
	h.Setenv(shim.LingerVariable, "1m")
	log := filepath.Join(h.TempDir(), "shim.log")
	c, err := shim.Spawn(h.Context(), shim.SpawnOptions{Binary: os.Getenv(shimBinary), Group: group, Paths: h.paths, Log: log})
	if err != nil {
		h.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	h.Cleanup(func() {
		_ = syscall.Kill(c.Pid(), syscall.SIGTERM)
		h.reap(c.Pid())
		h.checkClean()
		b, _ := os.ReadFile(log)
		if strings.Contains(string(b), "DATA RACE") || h.Failed() {
			h.Errorf("the shim's log:\n%s", b)
		}
	})
	return c
}

// reap waits for the end of a shim, which is our child once its starter is gone.
func (h *host) reap(pid int) {
	h.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); got == pid || err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	h.Errorf("shim %d did not end", pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// prepare makes the directory of a container that runs a program, and the request that starts it.
func (h *host) prepare(network string, args ...string) (string, shim.StartRequest) {
	h.Helper()
	id := snapshot.NewID()
	cgroup := h.parent + "/" + id
	s, err := spec.New(spec.Options{Args: args, Rootfs: h.rootfs, CgroupPath: cgroup, HostNetwork: network == "host", Seccomp: true,
		Env: []string{"FROM=spec"}})
	if err != nil {
		h.Fatal(err)
	}
	dir := shim.ContainerDir(h.paths.Root, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		h.Fatal(err)
	}
	return id, shim.StartRequest{Lower: []string{h.rootfs}, Record: snapshot.Container{
		Name: "web", Hostname: "web-host", Cgroup: cgroup, Args: args, Network: snapshot.Network{Mode: network},
	}}
}

func (h *host) run(c *shim.Client, network string, args ...string) snapshot.Container {
	h.Helper()
	id, request := h.prepare(network, args...)
	got, err := c.Start(h.Context(), id, request)
	if err != nil {
		h.Fatal(err)
	}
	if got.ID != id || got.Status != snapshot.StatusRunning || got.Pid == 0 || got.ShimPid != c.Pid() ||
		filepath.Dir(got.ShimAddr) != filepath.Dir(h.paths.Socket("web")) {
		h.Errorf("record: %+v", got)
	}
	return got
}

func (h *host) sh(c *shim.Client, script string) snapshot.Container {
	h.Helper()
	return h.run(c, "none", "/bin/sh", "-c", script)
}

// wait returns the exit status, at most in half a minute.
func (h *host) wait(c *shim.Client, id string) int {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 30*time.Second)
	defer cancel()
	status, err := c.Wait(ctx, id)
	if err != nil {
		h.Fatal(err)
	}
	return status
}

// end kills a container.
func (h *host) end(c *shim.Client, r snapshot.Container) {
	h.Helper()
	if err := syscall.Kill(r.Pid, syscall.SIGKILL); err != nil {
		h.Fatal(err)
	}
	if got := h.wait(c, r.ID); got != 137 {
		h.Errorf("status of a killed container: %d, want 137", got)
	}
}

// alive says whether the container's init is there and more than a zombie.
func alive(c snapshot.Container) bool { return proc.Alive(c.Pid, c.StartTime) }

// leftovers are what a container that has been cleared away must not have left on the host.
func (h *host) leftovers() (found []string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), h.paths.Root) {
		found = append(found, "a mount below "+h.paths.Root)
	}
	for _, pattern := range []string{"/sys/fs/cgroup" + h.parent + "/*", "/sys/fs/cgroup/*" + h.parent + "/*",
		h.paths.Libcontainer() + "/*"} {
		entries, _ := filepath.Glob(pattern)
		for _, e := range entries {
			if info, err := os.Stat(e); err == nil && info.IsDir() {
				found = append(found, e)
			}
		}
	}
	return found
}

func (h *host) checkClean() {
	h.Helper()
	if found := h.leftovers(); len(found) > 0 {
		h.Errorf("left behind: %v", found)
	}
}

func (h *host) removeCgroupParent() {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + h.parent)
	for _, d := range append(dirs, "/sys/fs/cgroup"+h.parent) {
		_ = os.Remove(d)
	}
}

// log returns what a container wrote to a stream.
func (h *host) log(id, stream string) string {
	h.Helper()
	b, err := os.ReadFile(shim.LogFile(h.paths.Root, id))
	if err != nil {
		h.Fatal(err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(b)) {
		var e struct {
			Log, Stream string
			Time        time.Time
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			h.Fatalf("%v in %q", err, line)
		}
		if e.Time.IsZero() {
			h.Errorf("no time in %q", line)
		}
		if e.Stream == stream {
			all.WriteString(e.Log)
		}
	}
	return all.String()
}

// ready waits until a container has written something.
func (h *host) ready(r snapshot.Container) {
	h.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for h.log(r.ID, "stdout") == "" {
		if time.Now().After(deadline) {
			h.Fatal("the container wrote nothing in 30 s")
		}
		time.Sleep(time.Millisecond)
	}
}

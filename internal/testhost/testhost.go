// Package testhost gives tests the real things: the binaries of this module, a working CRIU, an installation of their
// own to work in, and an eye on what it leaves on the host.
package testhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Installation is an installation of snapd-ctr for one test: its own state, bridge and subnet.
type Installation struct {
	Root, Run, Bridge, Subnet string
	CRIU, Shim, CLI           string
}

var counter struct {
	sync.Mutex
	n int
}

// New returns a fresh installation. When the test ends, everything of it must be gone from the host: processes, mounts,
// cgroups, interfaces.
func New(t testing.TB) *Installation {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: run the tests with sudo make test")
	}
	counter.Lock()
	counter.n++
	n := counter.n
	counter.Unlock()
	// Tests of several packages run at once: the process id tells their bridges apart.
	pid := os.Getpid()
	in := &Installation{
		Bridge: fmt.Sprintf("sc%d-%d", pid%1000000, n),
		Subnet: fmt.Sprintf("10.%d.%d.0/24", 128+pid%100, (pid/100+n*16)%256),
	}
	if len(in.Bridge) > 15 {
		t.Fatalf("bridge name %s is too long", in.Bridge)
	}
	dir := t.TempDir()
	in.Root, in.Run = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	in.CRIU = CRIU(t)
	in.Shim, in.CLI = Binary(t, "snapd-ctr-shim"), Binary(t, "snapd-ctr")
	in.watch(t)
	return in
}

// Env is the environment in which the command line uses the installation.
func (in *Installation) Env() []string {
	return append(os.Environ(), "SNAPD_CTR_ROOT="+in.Root, "SNAPD_CTR_RUN="+in.Run, "SNAPD_CTR_BRIDGE="+in.Bridge,
		"SNAPD_CTR_SUBNET="+in.Subnet, "SNAPD_CTR_CRIU="+in.CRIU, "SNAPD_CTR_SHIM="+in.Shim, "SNAPD_CTR_SHIM_LINGER=200ms")
}

// Command returns a command of snapd-ctr in the installation.
func (in *Installation) Command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, in.CLI, args...)
	c.Env = in.Env()
	return c
}

// Checkout returns the topmost folder of this module's source.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("not in a checkout of this module")
}

// CRIU returns the criu binary: that of SNAPD_CTR_CRIU, or that of `make setup`.
func CRIU(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("SNAPD_CTR_CRIU"); path != "" {
		return path
	}
	top, err := Checkout()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(top, ".cache", "prefix", "sbin", "criu")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no CRIU for the tests: run `make setup`, or set SNAPD_CTR_CRIU (%v)", err)
	}
	return path
}

// Binary builds a command of this module and returns its path. The build cache makes the second call cheap.
func Binary(t testing.TB, name string) string {
	t.Helper()
	top, err := Checkout()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "snapd-ctr-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	args := []string{"build", "-o", path}
	if name == "snapd-ctr-shim" {
		buildBeside(t, top, "stub", filepath.Join(dir, "snapd-ctr-stub"))
		buildBeside(t, top, "criu-plugin", filepath.Join(dir, "criu-plugins"))
		if exec.Command("pkg-config", "--exists", "libseccomp").Run() == nil {
			args = append(args, "-tags", "seccomp")
		}
	}
	cmd := exec.Command("go", append(args, "./cmd/"+name)...)
	cmd.Dir = top
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// buildBeside has a script of the repository build what the shim, and who starts it, look for beside it.
func buildBeside(t testing.TB, top, script, to string) {
	t.Helper()
	if out, err := exec.Command(filepath.Join(top, "scripts", script), to).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// watch fails the test when something of the installation is still on the host some time after its end.
func (in *Installation) watch(t testing.TB) {
	t.Cleanup(func() {
		deadline := time.Now().Add(15 * time.Second)
		for {
			left := in.Left()
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("left on the host:\n  %s", strings.Join(left, "\n  "))
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

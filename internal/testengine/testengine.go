// Package testengine gives tests container engines of their own: Docker, podman, containerd and runc, each with its
// storage, its cgroup and an image in it, and gone with the test. A test is skipped where Docker, podman or containerd
// is not installed: `make setup-engines` does that, apart from what every test needs.
package testengine

import (
	"bytes"
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

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

const (
	commandLimit = 30 * time.Second
	waitLimit    = 15 * time.Second
)

// need skips the test when a program of an engine is not installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		probetest.NeedProbe(t, probetest.Program(p, "make setup-engines"))
	}
}

// Dir returns a directory on a tmpfs of its own, where every kernel can stack overlays. What is left mounted in it when
// the test ends fails the test, and goes.
func Dir(t *testing.T) string {
	t.Helper()
	probetest.Need(t, "privileges")
	dir, err := os.MkdirTemp("/tmp", "en") // short: engines put unix sockets in it
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.MountTmpfs(dir, "size=512m,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left := mountedBelow(dir)
		if len(left) > 0 {
			t.Errorf("left mounted: %v", left)
		}
		for _, m := range slices.Backward(left) {
			_ = sys.Unmount(m)
		}
		if err := errors.Join(sys.Unmount(dir), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func mountedBelow(dir string) (mounts []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	return mounts
}

// Cgroup returns the path of a cgroup of the test's own, for an engine to put containers below. It goes with the test,
// in all hierarchies.
func Cgroup(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	path := fmt.Sprintf("/snapd-ctr-test-%d-%s", os.Getpid(), name)
	t.Cleanup(func() {
		found, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
		for _, dir := range append(found, "/sys/fs/cgroup"+path) {
			Await(t, "an empty cgroup "+dir, func() error { return removeTree(dir) })
		}
	})
	return path
}

// removeTree removes a cgroup and those below it.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, d := range slices.Backward(dirs) {
		if err == nil {
			err = syscall.Rmdir(d)
		}
	}
	return err
}

// unnamed says which process has the directory in its command line, if any.
func unnamed(dir string) error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); bytes.Contains(b, []byte(dir)) {
			return fmt.Errorf("%s: %s", f, bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
		}
	}
	return err
}

// Command runs a program to its end and returns what it printed.
func Command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := Try(t.Context(), name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// Try is Command for a program that may fail. A file, not a pipe, takes the output, since daemons that the program
// leaves behind keep it open.
func Try(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	f, err := os.CreateTemp("", "out")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	b, _ := os.ReadFile(f.Name())
	return string(b), err
}

// atEnd runs a program when the test ends.
func atEnd(t *testing.T, name string, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := Try(context.Background(), name, args...); err != nil {
			t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	})
}

// Await polls until f succeeds.
func Await(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("waited in vain for %s: %v", what, err)
}

// daemon starts a program, waits until ready succeeds, and ends it with the test.
func daemon(t *testing.T, cmd *exec.Cmd, logPath string, ready func() error) {
	t.Helper()
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var failure error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failure = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(waitLimit):
			t.Errorf("%s does not end", cmd.Path)
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	Await(t, cmd.Path+" to answer", func() error {
		select {
		case <-ended:
			b, _ := os.ReadFile(logPath)
			t.Fatalf("%s ended: %v\n%s", cmd.Path, failure, b)
		default:
		}
		return ready()
	})
}

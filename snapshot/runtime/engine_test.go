package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// counter is what test containers run: it counts in /count, for ever.
const counter = `i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done`

// need skips the test when a program is not installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// busyboxRoot fills dir with a root file system of a static busybox.
func busyboxRoot(t *testing.T, dir string) string {
	t.Helper()
	need(t, "busybox")
	program, _ := exec.LookPath("busybox")
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Skip("busybox is dynamically linked; busybox-static is not installed")
		}
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp", "data", "vol"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "bin/busybox"), b, 0o755)
	for _, name := range []string{"sh", "sleep", "cat", "echo"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t *testing.T, path string, b []byte, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
}

// imageArchive writes a docker archive with the image "localhost/counter:latest" of the directory root.
func imageArchive(t *testing.T, root, path string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.AddFS(os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	config := mustJSON(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest := mustJSON(t, []any{map[string]any{
		"Config": configName, "RepoTags": []string{"localhost/counter:latest"}, "Layers": []string{"layer.tar"},
	}})
	var archive bytes.Buffer
	w = tar.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {configName, config}, {"layer.tar", layer.Bytes()}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, path, archive.Bytes(), 0o644)
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// command runs a program to its end and returns what it printed. A file, not a pipe, takes the output, since daemons
// that the program leaves behind keep it open.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tryCommand(t.Context(), name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

func tryCommand(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
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

// clean is command for t.Cleanup: the test's context has ended by then.
func clean(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := tryCommand(context.Background(), name, args...); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
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
		if !closed(ended, 15*time.Second) {
			t.Errorf("%s does not end", cmd.Path)
			_ = cmd.Process.Kill()
			closed(ended, 5*time.Second)
		}
	})
	eventually(t, cmd.Path+" to answer", func() error {
		if closed(ended, 0) {
			b, _ := os.ReadFile(logPath)
			t.Fatalf("%s ended: %v\n%s", cmd.Path, failure, b)
		}
		return ready()
	})
}

func closed(c <-chan struct{}, wait time.Duration) bool {
	select {
	case <-c:
		return true
	case <-time.After(wait):
		return false
	}
}

// eventually polls until f succeeds.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("waited in vain for %s: %v", what, err)
}

// testCgroup returns the path of a cgroup of the test's own, for engines to put containers below. It goes with the test,
// in all hierarchies.
func testCgroup(t *testing.T) string {
	t.Helper()
	path := fmt.Sprintf("/snapd-ctr-test-%d-%s", os.Getpid(), strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())))
	t.Cleanup(func() {
		roots, _ := filepath.Glob("/sys/fs/cgroup/*")
		for _, root := range append(roots, "/sys/fs/cgroup") {
			eventually(t, "an empty cgroup "+root+path, func() error { return removeTree(root + path) })
		}
	})
	return path
}

// removeTree removes a cgroup and those below it.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = syscall.Rmdir(dirs[i])
	}
	return err
}

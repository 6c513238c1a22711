package api_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// engineImage is the image that the engines of these tests have.
const engineImage = "localhost/counter:latest"

// needEngine skips the test when a program is not installed.
func needEngine(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// engineDir returns a directory on a tmpfs of its own, where every kernel can stack overlays. What is left mounted in it
// when the test ends fails the test, and goes.
func engineDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "en") // short: engines put unix sockets in it
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.MountTmpfs(dir, "size=512m,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b, _ := os.ReadFile("/proc/self/mountinfo")
		var left []string
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
				t.Errorf("left mounted: %s", f[4])
				left = append(left, f[4])
			}
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

// busyboxRoot fills dir with a root file system of a static busybox.
func busyboxRoot(t *testing.T, dir string) string {
	t.Helper()
	needEngine(t, "busybox")
	program, _ := exec.LookPath("busybox")
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp", "www"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(dir, "bin/busybox"), b, 0o755)
	for _, name := range []string{"sh", "sleep", "cat", "echo", "httpd", "hostname", "awk"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func writeFile(t *testing.T, path string, b []byte, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
}

// engineArchive writes a docker archive with the image of a busybox.
func engineArchive(t *testing.T, dir string) string {
	t.Helper()
	var layer, archive bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := errors.Join(w.AddFS(os.DirFS(busyboxRoot(t, dir+"/busybox"))), w.Close()); err != nil {
		t.Fatal(err)
	}
	config := toJSON(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest := toJSON(t, []any{map[string]any{"Config": configName, "RepoTags": []string{engineImage}, "Layers": []string{"layer.tar"}}})
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
	path := dir + "/image.tar"
	writeFile(t, path, archive.Bytes(), 0o644)
	return path
}

func toJSON(t *testing.T, v any) []byte {
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

// atEnd runs a program when the test ends.
func atEnd(t *testing.T, name string, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := tryCommand(context.Background(), name, args...); err != nil {
			t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	})
}

// daemon starts a program, waits until it is ready, and ends it with the test.
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
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			t.Errorf("%s does not end", cmd.Path)
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	if err := eventually(t.Context(), ready); err != nil {
		b, _ := os.ReadFile(logPath)
		t.Fatalf("%s is not ready: %v\n%s", cmd.Path, err, b)
	}
}

// engineCgroup returns the path of a cgroup of the test's own, for engines to put containers below. It goes with the
// test, in all hierarchies.
func engineCgroup(t *testing.T) string {
	t.Helper()
	path := fmt.Sprintf("/snapd-ctr-test-%d-%x", os.Getpid(), sha256.Sum256([]byte(t.Name())))[:40]
	t.Cleanup(func() {
		roots, _ := filepath.Glob("/sys/fs/cgroup/*")
		for _, root := range append(roots, "/sys/fs/cgroup") {
			if err := eventually(context.Background(), func() error { return removeTree(root + path) }); err != nil {
				t.Error(err)
			}
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
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, d := range slices.Backward(dirs) {
		err = errors.Join(err, syscall.Rmdir(d))
	}
	return err
}

// startDocker starts a container in an engine of the test's own, which is in a network namespace of its own, where it may
// make a bridge.
func startDocker(t *testing.T, options ...string) (ref string) {
	t.Helper()
	needEngine(t, "dockerd", "docker", "containerd", "runc")
	dir := engineDir(t)
	socket := "unix://" + dir + "/sock"
	writeFile(t, dir+"/daemon.json", []byte("{}"), 0o600)
	cmd := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"-H", socket, "--iptables=false", "--ip6tables=false", "--storage-driver", "overlay2",
		"--config-file", dir+"/daemon.json", "--cgroup-parent", engineCgroup(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	t.Setenv("DOCKER_HOST", socket)
	t.Cleanup(func() { _ = sys.Unmount(dir + "/exec/netns/default") }) // the engine leaves its --network host behind
	daemon(t, cmd, dir+"/log", func() error {
		_, err := tryCommand(t.Context(), "docker", "-H", socket, "version")
		return err
	})
	command(t, "docker", "load", "-i", engineArchive(t, dir))
	args := slices.Concat([]string{"run", "-d", "--name", "web"}, options, []string{engineImage, "sh", "-c", counting})
	command(t, "docker", args...)
	atEnd(t, "docker", "-H", socket, "rm", "-f", "-v", "web")
	return "docker:web"
}

// podmanWrapper makes `podman` a program that keeps everything below dir, and returns it.
func podmanWrapper(t *testing.T, dir string) string {
	t.Helper()
	needEngine(t, "podman", "conmon")
	real, err := exec.LookPath("podman")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/bin/podman", fmt.Appendf(nil, `#!/bin/sh
exec %s --root %s/root --runroot %s/run --tmpdir %s/tmp --cgroup-manager cgroupfs --events-backend none --storage-driver overlay "$@"
`, real, dir, dir, dir), 0o755)
	t.Setenv("PATH", dir+"/bin:"+os.Getenv("PATH"))
	t.Cleanup(func() { // podman may bind it to itself, and leaves it so
		for sys.Unmount(dir+"/root/overlay") == nil {
		}
	})
	return dir + "/bin/podman"
}

// startPodman runs a container in storage of the test's own. crun refuses cgroup v1 where the v2 tree beside it has
// controllers, so it gets a mount namespace without that tree.
func startPodman(t *testing.T, low string, options ...string) (ref string) {
	t.Helper()
	needEngine(t, low)
	dir := engineDir(t)
	podman := podmanWrapper(t, dir)
	command(t, podman, "load", "-q", "-i", engineArchive(t, dir))
	all := slices.Concat([]string{podman, "--runtime", low, "run", "-d", "--name", "web", "--network", "none",
		// podman's defaults are above what root may set without CAP_SYS_RESOURCE
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroup-parent", engineCgroup(t)},
		options, []string{engineImage, "sh", "-c", counting})
	atEnd(t, podman, "rm", "-f", "-t", "0", "web")
	if b, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); low == "crun" && err == nil && len(b) > 1 {
		const script = `umount /sys/fs/cgroup/unified && exec "$@"`
		all = slices.Concat([]string{"unshare", "--mount", "sh", "-c", script, "sh"}, all)
	}
	command(t, all[0], all[1:]...)
	return "podman:web"
}

// startContainerd starts a container with ctr.
func startContainerd(t *testing.T) (ref string) {
	t.Helper()
	needEngine(t, "containerd", "ctr", "runc")
	dir := engineDir(t)
	writeFile(t, dir+"/config.toml", fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
`, dir+"/data", dir+"/state", dir+"/sock"), 0o600)
	ctr := []string{"-a", dir + "/sock", "-n", "test"}
	daemon(t, exec.Command("containerd", "-c", dir+"/config.toml"), dir+"/log", func() error {
		_, err := tryCommand(t.Context(), "ctr", append(ctr, "version")...)
		return err
	})
	command(t, "ctr", append(ctr, "image", "import", "--snapshotter", "overlayfs", engineArchive(t, dir))...)
	cgroup := engineCgroup(t)
	atEnd(t, "ctr", append(ctr, "container", "rm", "web")...)
	atEnd(t, "ctr", append(ctr, "task", "rm", "-f", "web")...)
	command(t, "ctr", append(ctr, "run", "-d", "--snapshotter", "overlayfs", "--runc-root", dir+"/runc", "--fifo-dir", dir+"/fifo",
		"--cgroup", cgroup+"/web", engineImage, "web", "sh", "-c", counting)...)
	return "containerd:" + dir + "/state/io.containerd.runtime.v2.task/test/web"
}

// runcOnTerminal starts a container whose descriptors are a terminal of the test's, as those of `runc run` in a shell are.
func runcOnTerminal(t *testing.T) (ref string) {
	t.Helper()
	master, slave, err := sys.OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, master) }()
	t.Cleanup(func() { slave.Close(); master.Close() })
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), slave.Fd())
	return startRunc(t, "<"+path+" >"+path+" 2>&1", nil)
}

// startRunc starts a container with runc alone. redirect is where its descriptors lead, in the shell's notation.
func startRunc(t *testing.T, redirect string, change func(*specs.Spec)) (ref string) {
	t.Helper()
	needEngine(t, "runc")
	dir := engineDir(t)
	command(t, "runc", "spec", "--bundle", dir)
	b, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Process.Args, spec.Process.Terminal = []string{"sh", "-c", counting}, false
	spec.Process.Env = []string{"PATH=/bin"}
	spec.Process.Rlimits = nil
	spec.Root = &specs.Root{Path: busyboxRoot(t, dir+"/rootfs")}
	spec.Hostname = "inner"
	spec.Linux.CgroupsPath = engineCgroup(t) + "/web"
	if change != nil {
		change(&spec)
	}
	writeFile(t, dir+"/config.json", toJSON(t, spec), 0o600)
	atEnd(t, "runc", "--root", dir+"/state", "delete", "-f", "web")
	command(t, "sh", "-c", `exec "$@" `+redirect, "sh", "runc", "--root", dir+"/state", "run", "-d", "--bundle", dir, "web")
	return "runc:" + dir + "/state/web"
}

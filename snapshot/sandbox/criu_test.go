package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// criu returns a CRIU of version 4.2 or later.
func criu(t *testing.T) string {
	t.Helper()
	path := os.Getenv("SNAPD_CTR_CRIU")
	if path == "" {
		var err error
		if path, err = exec.LookPath("criu"); err != nil {
			t.Fatal("no criu in PATH, and SNAPD_CTR_CRIU is not set")
		}
	}
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		t.Fatalf("%s --version: %v", path, err)
	}
	v := strings.TrimPrefix(strings.Fields(string(out))[1], "v")
	var major, minor int
	if _, err := fmt.Sscanf(v, "%d.%d", &major, &minor); err != nil || major < 4 || major == 4 && minor < 2 {
		t.Fatalf("criu %s is older than 4.2", v)
	}
	return path
}

func run(t *testing.T, cmd *exec.Cmd, log string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		tail, _ := os.ReadFile(log)
		t.Fatalf("%s: %v\n%s\n%s", strings.Join(cmd.Args, " "), err, out, lastLines(tail, 40))
	}
}

func lastLines(b []byte, n int) []byte {
	lines := bytes.SplitAfter(b, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

// container starts a container with runc on an overlay of a busybox root file system, and returns its init.
func container(t *testing.T, dir string, edit func(spec map[string]any)) (pid int, lower, upper string) {
	t.Helper()
	lower, upper = filepath.Join(dir, "lower"), filepath.Join(dir, "upper")
	must(t, os.MkdirAll(lower+"/bin", 0o755))
	must(t, os.MkdirAll(lower+"/etc", 0o755))
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	b, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(lower+"/bin/busybox", b, 0o755))
	must(t, os.Symlink("busybox", lower+"/bin/sh"))
	must(t, os.Chmod(lower, 0o755))
	rootfs := filepath.Join(dir, "rootfs")
	must(t, MountOverlay(rootfs, []string{lower}, upper, filepath.Join(dir, "work")))
	t.Cleanup(func() { must(t, Unmount(rootfs)) })

	run(t, inDir(dir, "runc", "spec"), "")
	var spec map[string]any
	b, err = os.ReadFile(filepath.Join(dir, "config.json"))
	must(t, err)
	must(t, json.Unmarshal(b, &spec))
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"/bin/sh", "-c", `exec </dev/null >/dev/null 2>&1; echo original >/dev/shm/note
		ln -s shm/note /dev/link; i=0; while :; do i=$((i+1)); echo $i >/dev/shm/count; busybox sleep 0.05; done`}
	process["capabilities"].(map[string]any)["bounding"] = []string{"CAP_MKNOD", "CAP_KILL"}
	spec["root"] = map[string]any{"path": rootfs, "readonly": false}
	if edit != nil {
		edit(spec)
	}
	b, err = json.Marshal(spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600))
	id := fmt.Sprintf("sandbox-test-%d", os.Getpid())
	state := filepath.Join(dir, "runc")
	pidFile := filepath.Join(dir, "pid")
	run(t, inDir(dir, "runc", "--root", state, "run", "-d", "--pid-file", pidFile, id), "")
	t.Cleanup(func() { run(t, exec.Command("runc", "--root", state, "delete", "-f", id), "") })
	b, err = os.ReadFile(pidFile)
	must(t, err)
	pid, err = strconv.Atoi(string(b))
	must(t, err)
	until(t, "the container's first count", func() bool {
		counts, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/dev/*/count", pid))
		direct, err2 := filepath.Glob(fmt.Sprintf("/proc/%d/root/dev/count", pid))
		return err == nil && err2 == nil && len(counts)+len(direct) > 0
	})
	return pid, lower, upper
}

func inDir(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout = nil, nil
	return cmd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition that another process makes true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// dumped is a container in CRIU's images.
type dumped struct {
	images   string
	plan     []snapshot.Mount
	contents map[string]string
	lower    []string
	netns    uint64
}

func dump(t *testing.T, criu, dir string, pid int, lower, upper string, o PlanOptions) dumped {
	t.Helper()
	plan, err := PlanMounts(pid, o)
	must(t, err)
	ino, err := proc.NamespaceInode(pid, "net")
	must(t, err)
	d := dumped{images: filepath.Join(dir, "images"), plan: plan, contents: make(map[string]string), netns: ino}
	must(t, os.Mkdir(d.images, 0o700))
	args := []string{"dump", "-t", strconv.Itoa(pid), "-D", d.images, "-o", "dump.log", "-v4", "--leave-stopped", "--network-lock", "skip",
		"--manage-cgroups=ignore", "--external", fmt.Sprintf("net[%d]:netns", ino)}
	for _, e := range DumpExternals(plan) {
		args = append(args, "--external", e)
	}
	run(t, exec.Command(criu, args...), filepath.Join(d.images, "dump.log"))
	for i, m := range plan {
		source, ok := CaptureMount(pid, m)
		if !ok {
			continue
		}
		d.contents[m.Key] = filepath.Join(dir, "content", strconv.Itoa(i))
		must(t, os.MkdirAll(filepath.Dir(d.contents[m.Key]), 0o700))
		// -x leaves out what other mounts cover.
		run(t, exec.Command("cp", "-ax", source, d.contents[m.Key]), "")
	}
	frozen := filepath.Join(dir, "frozen")
	run(t, exec.Command("cp", "-a", upper, frozen), "")
	d.lower = []string{frozen, lower}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	for _, child := range mustChildren(t, pid) {
		must(t, syscall.Kill(child, syscall.SIGCONT))
	}
	return d
}

func mustChildren(t *testing.T, pid int) []int {
	t.Helper()
	pids, err := proc.Children(pid)
	must(t, err)
	return pids
}

func restore(t *testing.T, criu, dir string, d dumped, o PrepareOptions, extra ...string) (pid int) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	rootfs := filepath.Join(dir, "rootfs")
	began := time.Now()
	must(t, MountOverlay(rootfs, d.lower, filepath.Join(dir, "upper"), filepath.Join(dir, "work")))
	overlay := time.Since(began)
	must(t, PrepareRoot(rootfs, d.plan))
	t.Cleanup(func() { must(t, Unmount(rootfs)) })
	mounts := filepath.Join(dir, "mounts")
	began = time.Now()
	externals, err := PrepareMounts(mounts, d.plan, d.contents, o)
	must(t, err)
	t.Logf("overlay %v, PrepareMounts of %d externals %v", overlay, len(externals), time.Since(began))
	t.Cleanup(func() { must(t, RemoveMounts(mounts)) })
	ns, err := os.Open("/proc/self/ns/net")
	must(t, err)
	defer ns.Close()
	pidFile := filepath.Join(dir, "pid")
	args := []string{"restore", "-D", d.images, "-W", dir, "-o", "restore.log", "-v4", "--root", rootfs, "-d", "--restore-sibling",
		"--pidfile", pidFile, "--manage-cgroups=ignore", "--network-lock", "skip", "--inherit-fd", "fd[3]:netns"}
	for _, e := range externals {
		args = append(args, "--external", e)
	}
	cmd := exec.Command(criu, append(args, extra...)...)
	cmd.ExtraFiles = []*os.File{ns}
	run(t, cmd, filepath.Join(dir, "restore.log"))
	b, err := os.ReadFile(pidFile)
	must(t, err)
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &status, 0, nil)
	})
	return pid
}

// picture is what must be equal of an original mount and a restored one.
func picture(t *testing.T, pid int) []string {
	t.Helper()
	mounts, err := proc.Mounts(pid)
	must(t, err)
	var lines []string
	for _, m := range mounts {
		super := m.VFSOptions
		if m.FSType == "overlay" {
			super = ""
		}
		root := m.Root
		if m.FSType != "proc" && m.FSType != "sysfs" && m.FSType != "devpts" {
			root = ""
		}
		shared := "private"
		if strings.Contains(m.Optional, "shared:") {
			shared = "shared"
		}
		if strings.Contains(m.Optional, "master:") {
			shared += ",slave"
		}
		lines = append(lines, fmt.Sprintf("%s %s root=%s %s super=%s %s", m.Mountpoint, m.FSType, root, m.Options, super, shared))
	}
	slices.Sort(lines)
	return lines
}

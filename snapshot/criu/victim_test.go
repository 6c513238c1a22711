package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
)

// findTool returns the criu to test with: that of SNAPD_CTR_CRIU, or that of `make setup`.
func findTool(t testing.TB) Tool {
	t.Helper()
	probetest.Need(t, "privileges")
	return Tool{Path: testhost.CRIU(t)}
}

// victimProgram is the compiled testdata/victim.c.
var victimProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "victim")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "victim")
	out, err := exec.Command("gcc", "-O1", "-static", "-pthread", "-o", bin, "testdata/victim.c").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	b, err := os.ReadFile(bin)
	return string(b), err
})

// victim is a process to be dumped, in namespaces and a root file system of its own.
type victim struct {
	t      testing.TB
	tool   Tool
	cmd    *exec.Cmd
	pid    int
	root   string // a mount point
	images string
	netns  *os.File
	netkey string
}

func newVictim(t testing.TB, mode string, megabytes int) *victim {
	t.Helper()
	v := &victim{t: t, tool: findTool(t), root: t.TempDir(), images: t.TempDir()}
	content, err := victimProgram()
	if err != nil {
		t.Fatal(err)
	}
	ok(t, os.WriteFile(filepath.Join(v.root, "victim"), []byte(content), 0o700))
	ok(t, os.Mkdir(filepath.Join(v.root, "proc"), 0o755))
	ok(t, syscall.Mount(v.root, v.root, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { _ = syscall.Unmount(v.root, syscall.MNT_DETACH) })
	v.run(mode, megabytes)
	v.netns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", v.pid))
	ok(t, err)
	t.Cleanup(func() { v.netns.Close() })
	var st syscall.Stat_t
	ok(t, syscall.Fstat(int(v.netns.Fd()), &st))
	v.netkey = fmt.Sprintf("net[%d]:testNet", st.Ino)
	return v
}

func (v *victim) run(mode string, megabytes int) {
	if mode == "outside" {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		ok(v.t, err)
		v.t.Cleanup(func() { syscall.Close(fd) })
		ok(v.t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: filepath.Join(v.root, "outside")}))
		ok(v.t, syscall.Listen(fd, 5))
	}
	r, w, err := os.Pipe()
	ok(v.t, err)
	defer r.Close()
	v.cmd = exec.Command(filepath.Join(v.root, "victim"), v.root, mode, fmt.Sprint(megabytes))
	v.cmd.ExtraFiles = []*os.File{w}
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	err = v.cmd.Start()
	w.Close()
	ok(v.t, err)
	v.pid = v.cmd.Process.Pid
	v.t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
	})
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 200)
	n, err := r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) || string(b[:n]) != "ready\n" {
		v.t.Fatalf("victim: %q, %v", b[:n], err)
	}
}

func (v *victim) dumpOptions() DumpOptions {
	return DumpOptions{Pid: v.pid, Images: v.images, Work: v.t.TempDir(), External: []string{v.netkey}, LeaveRunning: true, TCPClose: true}
}

func (v *victim) dump(ctx context.Context) {
	v.t.Helper()
	d, err := v.tool.Dump(ctx, v.dumpOptions())
	if err != nil {
		v.t.Fatalf("%v\n%s", err, logOf(err))
	}
	stats, err := d.Finish()
	ok(v.t, err)
	if stats.PagesWritten == 0 || stats.FrozenMS == 0 {
		v.t.Errorf("stats %+v", stats)
	}
}

func (v *victim) restoreOptions() RestoreOptions {
	return RestoreOptions{Images: v.images, Work: v.t.TempDir(), Root: v.root, TCPClose: true,
		Inherit: []InheritFD{{Key: "testNet", File: freshNetns(v.t)}}}
}

// freshNetns returns a network namespace with the addresses that a victim uses: in that of the original, connections
// that are closing keep its ports busy.
func freshNetns(t testing.TB) *os.File {
	t.Helper()
	var file *os.File
	ok(t, sys.Aside(func() error {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return err
		}
		out, err := exec.Command("sh", "-c", "ip link set lo up && ip addr add 10.9.8.7/8 dev lo").CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip: %w: %s", err, out)
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	}))
	t.Cleanup(func() { file.Close() })
	return file
}

// end kills the original.
func (v *victim) end() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

// sums has every process of the tree below init pid report its memory and returns what they say, in order.
func (v *victim) sums(pid int) string {
	v.t.Helper()
	var out []string
	for i := range []int{1, 2} {
		_ = os.Remove(filepath.Join(v.root, fmt.Sprintf("sum.%d", i+1)))
	}
	for p := range tree(pid) {
		ok(v.t, syscall.Kill(p, syscall.SIGUSR1))
	}
	for i := range []int{1, 2} {
		name := filepath.Join(v.root, fmt.Sprintf("sum.%d", i+1))
		eventually(v.t, func() bool { _, err := os.Stat(name); return err == nil })
		b, err := os.ReadFile(name)
		ok(v.t, err)
		out = append(out, string(b))
	}
	return strings.Join(out, " ")
}

func eventually(t testing.TB, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("does not come true")
		}
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

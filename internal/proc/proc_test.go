package proc

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sleeper starts a process that ends with the test.
func sleeper(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return cmd
}

func TestParseStat(t *testing.T) {
	line := func(comm string) string {
		return "42 (" + comm + ") t 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21\n"
	}
	for _, comm := range []string{"sh", "a b", ") R 1", ":) (", ")))", ""} {
		s, err := parseStat([]byte(line(comm)))
		if err != nil || s.state != 't' || s.start != 987654 {
			t.Errorf("process named %q: state %c, started at %d, %v", comm, s.state, s.start, err)
		}
	}
	for _, bad := range []string{"", "42 (sh", "42 (sh) R 1 2", "42 (sh) R" + strings.Repeat(" x", 30)} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, s)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("1 (a) b) R"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStat(b)
		if err == nil && s.state == 0 && !strings.Contains(string(b), "\x00") {
			t.Errorf("%q has no state", b)
		}
	})
}

func FuzzParsePrivate(f *testing.F) {
	f.Add([]byte("Private_Clean:  4 kB\nPrivate_Dirty: 8 kB\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseRollup(b) })
}

func FuzzParseCgroups(f *testing.F) {
	f.Add("3:cpu,cpuacct:/a:b\n0::/\n")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseCgroups(s)
		if err == nil && strings.TrimSpace(s) != "" && len(m) == 0 {
			t.Errorf("nothing was read of %q", s)
		}
	})
}

func TestParseCgroups(t *testing.T) {
	m, err := parseCgroups("9:name=systemd:/a:b\n3:cpu,cpuacct:/c\n0::/d\n")
	must(t, err)
	if m["name=systemd"] != "/a:b" || m["cpu,cpuacct"] != "/c" || m[""] != "/d" {
		t.Errorf("read as %v", m)
	}
}

func TestAliveAndState(t *testing.T) {
	cmd := sleeper(t, "exec sleep 600")
	pid := cmd.Process.Pid
	start, err := StartTime(pid)
	must(t, err)
	if !Alive(pid, start) || Alive(pid, start+1) {
		t.Error("a running process is not told from another that had its id")
	}
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	waitState(t, pid, 'T')
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	waitState(t, pid, 'Z')
	if Alive(pid, start) {
		t.Error("a zombie is alive")
	}
	_ = cmd.Wait()
	if Alive(pid, start) {
		t.Error("a process that is gone is alive")
	}
	if _, err := StartTime(pid); err == nil {
		t.Error("a process that is gone has a start time")
	}
}

func waitState(t *testing.T, pid int, want byte) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		got, err := State(pid)
		must(t, err)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is %c, want %c", pid, got, want)
		}
	}
}

func TestChildren(t *testing.T) {
	cmd := exec.Command("sh", "-c", `sh -c 'sleep 600 & echo $!; wait' & sleep 600 & echo $!; echo $$; wait`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	must(t, err)
	// A thread other than the first starts it: its children are in that thread's file.
	started := make(chan error)
	release := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-release
	}()
	must(t, <-started)
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		close(release)
	}()
	lines := bufio.NewScanner(out)
	var named []int
	for range 3 {
		if !lines.Scan() {
			t.Fatal("the tree did not start")
		}
		pid, err := strconv.Atoi(lines.Text())
		must(t, err)
		named = append(named, pid)
	}
	all, err := Children(os.Getpid())
	must(t, err)
	for _, pid := range named {
		if !slices.Contains(all, pid) {
			t.Errorf("%d is not among %v", pid, all)
		}
	}
	below, err := Children(cmd.Process.Pid)
	must(t, err)
	if len(below) != 3 || slices.Contains(below, cmd.Process.Pid) {
		t.Errorf("below %d: %v, want the 3 others", cmd.Process.Pid, below)
	}
	if _, err := Children(1 << 30); err == nil {
		t.Error("a process that does not exist has children")
	}
}

func TestMounts(t *testing.T) {
	mounts, err := Mounts(os.Getpid())
	must(t, err)
	var proc bool
	for _, m := range mounts {
		proc = proc || m.Mountpoint == "/proc" && m.FSType == "proc" && m.Root == "/"
	}
	if !proc || len(mounts) < 2 {
		t.Errorf("no /proc among %d mounts", len(mounts))
	}
}

func TestNamespaceInode(t *testing.T) {
	inode, err := NamespaceInode(os.Getpid(), "net")
	must(t, err)
	link, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	if want := fmt.Sprintf("net:[%d]", inode); link != want {
		t.Errorf("%s, want %s", want, link)
	}
	if _, err := NamespaceInode(os.Getpid(), "none"); err == nil {
		t.Error("a kind of namespace that does not exist has an inode")
	}
}

func TestPrivateBytes(t *testing.T) {
	before, err := PrivateBytes(os.Getpid())
	must(t, err)
	const size = 32 << 20
	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_POPULATE)
	must(t, err)
	defer syscall.Munmap(mem)
	after, err := PrivateBytes(os.Getpid())
	must(t, err)
	if grown := after - before; grown < size*9/10 || grown > size*2 {
		t.Errorf("%d bytes more after %d were touched", grown, size)
	}
	for _, bad := range []string{"Private_Dirty: x kB\n", "Private_Clean: 99999999999999999999 kB\n"} {
		if _, err := parseRollup([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestBootID(t *testing.T) {
	id, err := BootID()
	must(t, err)
	if len(id) != 36 || strings.Count(id, "-") != 4 {
		t.Errorf("boot id %q", id)
	}
}

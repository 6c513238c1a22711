package api_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// compiled is a root file system with a program of testdata in it, at /NAME.
func compiled(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(testrootfs.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("cc", "-O1", "-Wall", "-Werror", "-static", "-pthread", "-o", filepath.Join(dir, name), "testdata/"+name+".c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile %s.c: %v\n%s", name, err, out)
	}
	return dir
}

// snapshotOf runs a program until it says that it is ready, and snapshots it.
func snapshotOf(ctx context.Context, t *testing.T, svc *api.Local, name string, r api.RunRequest) *snapshot.Container {
	t.Helper()
	c, err := svc.Run(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := logged(ctx, svc, c, "ready"); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: c.ID, Name: name}); err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	return c
}

// clonesBy makes clones by one engine.
func clonesBy(ctx context.Context, t *testing.T, svc *api.Local, engine, of, name string, n int) []*snapshot.Container {
	t.Helper()
	made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: of, Count: n, Name: name, Engine: engine})
	if err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	for _, c := range made {
		if c.Engine != engine {
			t.Fatalf("%s was made by the engine %s: %s", c.Name, c.Engine, c.EngineWhy)
		}
	}
	return made
}

// tell puts a file into a running container.
func tell(t *testing.T, c *snapshot.Container, name, content string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/root/", c.Pid)
	if err := os.WriteFile(dir+name+".new", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+name+".new", dir+name); err != nil {
		t.Fatal(err)
	}
}

// reported waits for a container's report and returns its lines.
func reported(ctx context.Context, t *testing.T, svc *api.Local, c *snapshot.Container, name string) []string {
	t.Helper()
	var b []byte
	path := filepath.Join(svc.ContainerDir(c.ID), "upper", name)
	if err := eventually(ctx, func() (err error) {
		b, err = os.ReadFile(path)
		return err
	}); err != nil {
		half, _ := os.ReadFile(path + ".new")
		t.Fatalf("%s has not reported: %v; so far:\n%s", c.Name, err, half)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// later waits until the clock of this host has gone on by d: clocks of clones must not show it.
func later(since time.Duration, d time.Duration) error {
	for {
		now, _, err := sys.Clocks()
		if err != nil || now > since+d {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestTemplateLife has a program with one of everything checked in clones of both engines and in the original: nothing is
// wrong in any of them, and what can be read of the process is the same, but for what knownOfTemplates lists.
func TestTemplateLife(t *testing.T) {
	rootfs := compiled(t, "life")
	for _, args := range [][]string{{"/life"}, {"/life", "filtered"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			original := snapshotOf(ctx, t, svc, "snap", api.RunRequest{Name: "original", Rootfs: rootfs, Args: args})
			at, _, err := sys.Clocks()
			if err != nil {
				t.Fatal(err)
			}
			if err := later(at, 3*time.Second); err != nil {
				t.Fatal(err)
			}
			all := []*snapshot.Container{original}
			all = append(all, clonesBy(ctx, t, svc, snapshot.EngineCRIU, "snap", "criu", 1)...)
			all = append(all, clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "template", 4)...)
			for _, c := range all[2:] {
				if err := eventually(ctx, func() error { return sameMaps(t, original, c) }); err != nil {
					t.Error(err)
				}
			}
			for _, c := range all {
				tell(t, c, "go", "")
			}
			var values [][]string
			for _, c := range all {
				values = append(values, valuesOf(t, c, reported(ctx, t, svc, c, "report")))
			}
			for i, c := range all[2:] {
				differ(t, "by criu", values[1], c.Name, values[i+2])
			}
			checkPtrace(t, all[2])
			checkEnds(ctx, t, svc, all[2:])
		})
	}
}

// valuesOf checks a report and returns what it says of the process's values.
func valuesOf(t *testing.T, c *snapshot.Container, report []string) (values []string) {
	t.Helper()
	right := 0
	for _, line := range report {
		switch {
		case strings.HasPrefix(line, "bad "):
			t.Errorf("%s: %s", c.Name, line)
		case strings.HasPrefix(line, "ok "):
			right++
		case strings.HasPrefix(line, "is ") && !strings.Contains(line, "SigQ"):
			values = append(values, line)
		}
	}
	if right < 100 || report[len(report)-1] != "done" {
		t.Errorf("%s: %d things were right, and the report ends with %q", c.Name, right, report[len(report)-1])
	}
	return values
}

// knownOfTemplates is what a clone of a template has otherwise than one by CRIU: a clone is a fork, and the kernel empties
// memory of that kind in a fork. That is what its owner wants of it when two processes go on from one.
var knownOfTemplates = []string{"is WIPEONFORK zero"}

func differ(t *testing.T, a string, is []string, b string, are []string) {
	t.Helper()
	for _, line := range are {
		if !slices.Contains(is, line) && !slices.Contains(knownOfTemplates, line) {
			t.Errorf("%s says %q, and that %s does not", b, line, a)
		}
	}
	if len(is) != len(are) {
		t.Errorf("%s says %d things, and that %s %d", b, len(are), a, len(is))
	}
}

// sameMaps compares what is mapped: a clone has what the original has, and the code and the signal frames of the stub,
// neither of which it can write to. The rest of the stub goes with its last instruction, which may be just ahead.
func sameMaps(t *testing.T, original, clone *snapshot.Container) error {
	t.Helper()
	lines := func(c *snapshot.Container) (out []string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			out = append(out, strings.Join(append(f[:3], f[5:]...), " ")) // without device and inode
		}
		return out
	}
	was, is := lines(original), lines(clone)
	for _, line := range was {
		if !slices.Contains(is, line) {
			return fmt.Errorf("%s lacks the mapping %s", clone.Name, line)
		}
	}
	var perms []string
	for _, line := range is {
		if !slices.Contains(was, line) {
			perms = append(perms, strings.Fields(line)[1])
		}
	}
	if want := []string{"r-xp", "r--p"}; !slices.Equal(perms, want) {
		return fmt.Errorf("%s has more mappings than the original: %v, not %v", clone.Name, perms, want)
	}
	return nil
}

// checkPtrace stops a clone's first thread from outside, as a debugger does, and reads its registers and memory.
func checkPtrace(t *testing.T, c *snapshot.Container) {
	t.Helper()
	const seize, interrupt = 0x4206, 0x4207
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	call := func(op, data uintptr) {
		t.Helper()
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, op, uintptr(c.Pid), 0, data, 0, 0); errno != 0 {
			t.Fatalf("ptrace %#x of %s: %v", op, c.Name, errno)
		}
	}
	call(seize, 0)
	call(interrupt, 0)
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(c.Pid, &status, syscall.WALL, nil); err != nil || pid != c.Pid || !status.Stopped() {
		t.Fatalf("%s does not stop: %d, %v, %v", c.Name, pid, status, err)
	}
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(c.Pid, &regs); err != nil {
		t.Error(err)
	}
	maps, err := proc.Mappings(c.Pid)
	if err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(maps, func(m proc.Mapping) bool { return regs.Rip >= m.Start && regs.Rip < m.End && m.Name == "/life" }) {
		t.Errorf("%s stands at %#x, which is not in its program", c.Name, regs.Rip)
	}
	text := make([]byte, 8)
	if n, err := syscall.PtracePeekText(c.Pid, uintptr(regs.Rip), text); err != nil || n != len(text) {
		t.Errorf("read code of %s: %d, %v", c.Name, n, err)
	}
	if err := syscall.PtraceDetach(c.Pid); err != nil {
		t.Error(err)
	}
}

// checkEnds ends clones in four ways. The template does not notice: it makes another clone.
func checkEnds(ctx context.Context, t *testing.T, svc *api.Local, clones []*snapshot.Container) {
	t.Helper()
	template := templateOf(t, clones[0].ShimPid)
	ends := func(c *snapshot.Container, want int) {
		t.Helper()
		if status, err := svc.Wait(ctx, c.ID); err != nil || status != want {
			t.Errorf("%s ended with %d, %v; want %d", c.Name, status, err, want)
		}
	}
	tell(t, clones[0], "end", "segv")
	ends(clones[0], 128+int(syscall.SIGSEGV))
	if pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); strings.TrimSpace(string(pattern)) == "core" {
		cores, _ := filepath.Glob(filepath.Join(svc.ContainerDir(clones[0].ID), "upper", "core*"))
		if len(cores) != 1 {
			t.Errorf("cores of %s: %v", clones[0].Name, cores)
		} else if b, err := os.ReadFile(cores[0]); err != nil || !strings.HasPrefix(string(b), "\x7fELF") {
			t.Errorf("the core is no core: %v", err)
		}
	}
	killProcess(t, clones[1].Pid)
	ends(clones[1], 137)
	tell(t, clones[2], "end", "leave")
	ends(clones[2], 7)
	limited, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Name: "small", Count: 1, Engine: snapshot.EngineTemplate, Limits: &snapshot.Limits{MemoryBytes: 48 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, limited[0], "go", "")
	reported(ctx, t, svc, limited[0], "report")
	tell(t, limited[0], "end", "oom")
	ends(limited[0], 137)
	if again := templateOf(t, clones[3].ShimPid); again != template {
		t.Errorf("the template was %d and is %d", template, again)
	}
	tell(t, clones[3], "end", "leave") // an older one goes on
	ends(clones[3], 7)
	tell(t, clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "late", 1)[0], "go", "")
}

// templateOf returns the template that is a child of a shim.
func templateOf(t *testing.T, shim int) int {
	t.Helper()
	found := 0
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", shim))
	for _, name := range tasks {
		b, _ := os.ReadFile(name)
		for _, word := range strings.Fields(string(b)) {
			if comm, _ := os.ReadFile("/proc/" + word + "/comm"); strings.TrimSpace(string(comm)) == "snapd-template" {
				if found != 0 {
					t.Fatalf("shim %d has two templates, %d and %s", shim, found, word)
				}
				found, _ = strconv.Atoi(word)
			}
		}
	}
	if found == 0 {
		t.Fatalf("shim %d has no template", shim)
	}
	return found
}

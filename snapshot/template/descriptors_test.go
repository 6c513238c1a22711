package template

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

const (
	replayBase recipe.Addr = 0x200000000000
	replayHigh int         = 200 // HIGH of testdata/descriptors.c
)

// stage is where donors and replays of descriptors run: the compiled program and a root file system.
type stage struct {
	t       *testing.T
	tool    criu.Tool
	program string
	root    string
	images  string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	probetest.Need(t, "privileges")
	s := &stage{t: t, tool: criu.Tool{Path: testhost.CRIU(t)}, root: t.TempDir(), images: t.TempDir()}
	s.program = filepath.Join(t.TempDir(), "descriptors")
	out, err := exec.Command("gcc", "-O1", "-static", "-w", "-o", s.program, "testdata/descriptors.c").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	must(t, os.Chmod(s.root, 0o755))
	for _, dir := range []string{"proc", "dev"} {
		must(t, os.Mkdir(filepath.Join(s.root, dir), 0o755))
	}
	must(t, syscall.Mknod(filepath.Join(s.root, "dev/null"), syscall.S_IFCHR|0o666, 1<<8|3))
	must(t, syscall.Mknod(filepath.Join(s.root, "dev/urandom"), syscall.S_IFCHR|0o666, 1<<8|9))
	must(t, syscall.Mount(s.root, s.root, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { _ = syscall.Unmount(s.root, syscall.MNT_DETACH) })
	// The donor's executable is a file of its own, for CRIU to find.
	b, err := os.ReadFile(s.program)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.root, "program"), b, 0o755))
	return s
}

// start runs the program and returns it and what it says until it waits. Files are handed to it above its own
// descriptors.
func (s *stage) start(files []*os.File, args ...string) (*exec.Cmd, string) {
	s.t.Helper()
	r, w, err := os.Pipe()
	must(s.t, err)
	defer r.Close()
	cmd := exec.Command(filepath.Join(s.root, "program"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	cmd.ExtraFiles = make([]*os.File, 900-3+1)
	for i, f := range files {
		cmd.ExtraFiles[replayHigh+i-3] = f
	}
	cmd.ExtraFiles[900-3] = w
	must(s.t, cmd.Start())
	must(s.t, w.Close())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	must(s.t, r.SetReadDeadline(time.Now().Add(20*time.Second)))
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		s.t.Fatalf("%s: %v", b.String(), err)
	}
	return cmd, b.String()
}

// donor starts a donor and dumps it, and returns what it said of its descriptors.
func (s *stage) donor(what string) string {
	s.t.Helper()
	cmd, said := s.start(nil, what, s.root)
	if !strings.Contains(said, "DONE\n") {
		s.t.Fatal(said)
	}
	pid := cmd.Process.Pid
	var st syscall.Stat_t
	must(s.t, syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st))
	d, err := s.tool.Dump(s.t.Context(), criu.DumpOptions{Pid: pid, Images: s.images, Work: s.t.TempDir(), TCPClose: true,
		External: []string{fmt.Sprintf("net[%d]:testNet", st.Ino)}})
	if err != nil {
		s.t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	_, err = d.Finish()
	must(s.t, err)
	_ = cmd.Wait()
	return said
}

// compile makes the recipe of what was dumped. The files of the images that it wants are opened into files.
func (s *stage) compile(files *[]*os.File, change ...func(*compiler)) (*compiler, *recipe.Recipe) {
	s.t.Helper()
	images, err := criu.Open(s.images)
	must(s.t, err)
	tasks, err := images.Tasks()
	must(s.t, err)
	c := &compiler{images: images, config: &snapshot.Config{}, data: recipe.NewData(replayBase), high: replayHigh}
	c.open = func(name string) int {
		f, err := os.Open(filepath.Join(s.images, name))
		must(s.t, err)
		s.t.Cleanup(func() { f.Close() })
		*files = append(*files, f)
		return replayHigh + len(*files) - 1
	}
	for _, f := range change {
		f(c)
	}
	r := c.data.New()
	c.descriptors(r, tasks[0])
	return c, r
}

// replay runs a recipe in a fresh process, and returns what that says of its descriptors.
func (s *stage) replay(what string, r *recipe.Recipe, files []*os.File) string {
	s.t.Helper()
	n := r.Len()
	at := r.Store()
	memory := r.Data().Memory()
	var b []byte
	for _, v := range []uint64{uint64(replayBase), uint64(len(memory)), uint64(at), uint64(n)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	path := filepath.Join(s.t.TempDir(), "recipe")
	must(s.t, os.WriteFile(path, append(b, memory...), 0o600))
	_, said := s.start(files, "replay", s.root, path, what)
	var call, result int
	if _, err := fmt.Sscanf(said, "CALL %d %d", &call, &result); err == nil {
		s.t.Fatalf("call %d of %d, %s, returned %d (%v)", call, n, r.What(call), result, syscall.Errno(-result))
	}
	return said
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDescriptorsComeBack(t *testing.T) {
	for _, what := range []string{"files", "plumbing", "sockets"} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			before := s.donor(what)
			var files []*os.File
			c, r := s.compile(&files)
			if len(c.reasons) != 0 {
				t.Fatalf("refused: %v", c.reasons)
			}
			calls := r.Len()
			after := s.replay(what, r, files)
			if d := cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n")); d != "" {
				t.Errorf("original and clone differ (-original +clone):\n%s", d)
			}
			t.Logf("%d descriptors, %d calls", strings.Count(before, " same "), calls)
			if b, err := os.ReadFile(filepath.Join(s.root, "again")); what == "files" && (err != nil || string(b) != "the new one") {
				t.Errorf("the file that has the name of a deleted one: %q, %v", b, err)
			}
			if left, err := filepath.Glob(filepath.Join(s.root, "*parked*")); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

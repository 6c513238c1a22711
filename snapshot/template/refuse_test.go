package template

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fh"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fsnotify"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// alone compiles one descriptor, number 5, and returns why that was refused.
func alone(kind fdinfo.FdTypes, f *fdinfo.FileEntry) string {
	data := recipe.NewData(replayBase)
	e := &fdinfo.FdinfoEntry{Fd: new(uint32(5)), Flags: new(uint32(0)), Id: new(uint32(1)), Type: kind.Enum()}
	d := &descriptors{c: &compiler{high: 8, data: data}, r: data.New(), table: newTable(8), ids: []uint32{1},
		t:     &criu.Task{Tree: &pstree.PstreeEntry{Pid: new(uint32(1))}, FDs: []*fdinfo.FdinfoEntry{e}},
		byID:  map[uint32][]*fdinfo.FdinfoEntry{1: {e}},
		files: map[uint32]*fdinfo.FileEntry{1: f}, done: make(map[uint32]bool), words: make(map[string]recipe.Addr)}
	d.open(1, f)
	d.fillEpolls()
	return strings.Join(d.c.reasons, "\n")
}

func TestRefusedDescriptors(t *testing.T) {
	reg := func(name string, mode uint32) *fdinfo.FileEntry {
		return &fdinfo.FileEntry{Reg: &regfile.RegFileEntry{Name: &name, Mode: &mode}}
	}
	owned := reg("/data", 0o100644)
	owned.Reg.Fown = &fown.FownEntry{Pid: new(uint32(1))}
	foreign := reg("file[1:2]", 0o100644)
	foreign.Reg.Ext = new(true)
	for _, c := range []struct {
		kind fdinfo.FdTypes
		f    *fdinfo.FileEntry
		want string
	}{
		{fdinfo.FdTypes_REG, reg("/data", 0o100644), ""},
		{fdinfo.FdTypes_REG, reg("/dev/null", 0o020666), ""},
		{fdinfo.FdTypes_REG, reg("/proc/1/status", 0o100444), ""},
		{fdinfo.FdTypes_REG, reg("/proc/meminfo", 0o100444), ""},
		{fdinfo.FdTypes_REG, reg("/dev/kmsg", 0o020666), "descriptor 5: the device /dev/kmsg"},
		{fdinfo.FdTypes_REG, reg("/dev/sda", 0o060666), "descriptor 5: the special file /dev/sda"},
		{fdinfo.FdTypes_REG, reg("/proc/1/task/9/stat", 0o100444), "descriptor 5: /proc/1/task/9/stat, a file of a thread"},
		{fdinfo.FdTypes_REG, reg("/proc/7/stat", 0o100444), "descriptor 5: /proc/7/stat, a file of another process"},
		{fdinfo.FdTypes_REG, owned, "descriptor 5: sends a signal to process 1 when it is ready (F_SETOWN)"},
		{fdinfo.FdTypes_REG, foreign, "descriptor 5: a file from outside of the container"},
		{fdinfo.FdTypes_TTY, &fdinfo.FileEntry{}, "descriptor 5: a terminal"},
		{fdinfo.FdTypes_NETLINKSK, &fdinfo.FileEntry{}, "descriptor 5: a netlink socket"},
		{fdinfo.FdTypes_NS, &fdinfo.FileEntry{}, "descriptor 5: a namespace"},
		{20, &fdinfo.FileEntry{}, "descriptor 5: a pidfd"},
		{77, &fdinfo.FileEntry{}, "descriptor 5: of a kind that the engine does not know (77)"},
		{fdinfo.FdTypes_INETSK, &fdinfo.FileEntry{Isk: &sk_inet.InetSkEntry{Family: new(uint32(2)), Type: new(uint32(3)), Proto: new(uint32(1))}},
			"descriptor 5: a socket of family 2, type 3, protocol 1"},
		{fdinfo.FdTypes_UNIXSK, &fdinfo.FileEntry{Usk: &sk_unix.UnixSkEntry{Type: new(uint32(1)), State: new(uint32(1)), Ino: new(uint32(9)), Peer: new(uint32(8))}},
			"descriptor 5: a unix socket connected to one that is not this process's"},
		{fdinfo.FdTypes_UNIXSK, &fdinfo.FileEntry{Usk: &sk_unix.UnixSkEntry{Type: new(uint32(1)), State: new(uint32(10)), Ino: new(uint32(9)), Name: []byte("/s\x00"), Deleted: new(true)}},
			"descriptor 5: the unix socket /s, whose name is gone or another's"},
	} {
		if got := alone(c.kind, c.f); got != c.want {
			t.Errorf("%v: refused with %q, want %q", c.f, got, c.want)
		}
	}
}

// TestConnection has a container with a TCP connection come back as CRIU's own restore has it: closed, listening on.
func TestConnection(t *testing.T) {
	s := newStage(t)
	before := s.donor("connected")
	c, r := s.compile(nil)
	if len(c.reasons) != 0 {
		t.Fatalf("refused: %v", c.reasons)
	}
	after := s.replay("connected", r, nil)
	if !strings.Contains(after, "\nDONE\n") {
		t.Fatal(after)
	}
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	if i := slices.IndexFunc(a, func(l string) bool { return strings.HasPrefix(l, "3 ") }); i < 0 || a[i] != b[i] {
		t.Errorf("the listening socket differs:\n%s\n%s", a[i], b[i])
	}
}

// TestGivenPipes has the output of a clone go where the clone is told.
func TestGivenPipes(t *testing.T) {
	s := newStage(t)
	s.donor("plumbing")
	images, err := criu.Open(s.images)
	must(t, err)
	tasks, err := images.Tasks()
	must(t, err)
	key := ""
	for _, e := range tasks[0].FDs {
		if f, err := images.File(e.GetId()); err == nil && e.GetFd() == 4 {
			key = fmt.Sprintf("pipe:[%d]", f.GetPipe().GetPipeId())
		}
	}
	in, out, err := os.Pipe()
	must(t, err)
	defer in.Close()
	_, err = out.WriteString("given")
	must(t, err)
	must(t, out.Close())
	c, r := s.compile(nil, func(c *compiler) {
		c.config.Stdio[0] = key
		c.given = map[string]int{key: replayHigh}
	})
	if len(c.reasons) != 0 {
		t.Fatalf("refused: %v", c.reasons)
	}
	said := s.replay("", r, []*os.File{in})
	_, line, _ := strings.Cut(said, "\n4 ")
	line, _, _ = strings.Cut(line, "\n")
	for _, want := range []string{"cloexec 0", "content 5 ", "flags:\t04000"} {
		if !strings.Contains(line, want) {
			t.Errorf("descriptor 4 is not what was given (%s): %s", want, line)
		}
	}
}

func TestRefusedSegments(t *testing.T) {
	vmas := func(at ...[3]uint64) (all []*vma.VmaEntry) {
		for _, a := range at {
			all = append(all, &vma.VmaEntry{Start: &a[0], End: &a[1], Pgoff: &a[2]})
		}
		return all
	}
	whole := [3]uint64{0x10000, 0x12000, 0}
	for _, c := range []struct {
		name     string
		change   func(*ipc_shm.IpcShmEntry)
		attached []*vma.VmaEntry
		stored   []criu.PageRun
		want     string
	}{
		{"attached twice", nil, vmas(whole, [3]uint64{0x20000, 0x22000, 0}), []criu.PageRun{{Start: 0x1000, End: 0x2000}}, ""},
		{"to be removed", func(s *ipc_shm.IpcShmEntry) { s.Desc.Mode = new(uint32(shmDest | 0o600)) }, vmas(whole), nil, ""},
		{"nowhere", nil, nil, nil, "not attached"},
		{"its first page", nil, vmas([3]uint64{0x10000, 0x11000, 0}), nil, "a part of it is attached"},
		{"its second page", nil, vmas(whole, [3]uint64{0x20000, 0x21000, 0x1000}), nil, "a part of it is attached"},
		{"locked", func(s *ipc_shm.IpcShmEntry) { s.Desc.Mode = new(uint32(0o2600)) }, vmas(whole), nil, "locked in memory"},
		{"of another user", func(s *ipc_shm.IpcShmEntry) { s.Desc.Cuid = new(uint32(7)) }, vmas(whole), nil, "made by another user than root"},
		{"huge pages", func(s *ipc_shm.IpcShmEntry) { s.HugetlbFlag = new(uint32(1)) }, vmas(whole), nil, "pages of hugetlbfs"},
		{"too much", nil, vmas(whole), []criu.PageRun{{Start: 0x1000, End: 0x3000}}, "more is stored of it than it is long"},
		{"the longest there is", func(s *ipc_shm.IpcShmEntry) { s.Size = new(^uint64(0)) }, vmas(whole), nil, "a part of it is attached"},
	} {
		s := &ipc_shm.IpcShmEntry{Desc: &ipc_desc.IpcDescEntry{Id: new(uint32(3)), Mode: new(uint32(0o600))}, Size: new(uint64(0x1800)), InPagemaps: new(true)}
		if c.change != nil {
			c.change(s)
		}
		if got := cannotAttach(s, c.attached, c.stored); got != c.want {
			t.Errorf("%s: refused with %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRefusedWatches(t *testing.T) {
	for _, c := range []struct {
		name string
		mask uint32
		want string
	}{
		{"/etc/passwd", inAllEvents | inOneshot, ""},
		{"", 2, "descriptor 5: watch 3 is of a file whose name is not known"},
		{"etc/passwd", 2, "descriptor 5: watch 3 is of a file whose name is not known"},
		{"/etc", 0, "descriptor 5: watch 3 is for the events 0x0"},
		{"/etc", 2 | 1<<29, "descriptor 5: watch 3 is for the events 0x20000002"}, // IN_MASK_ADD is of a call, and of no watch
	} {
		data := recipe.NewData(replayBase)
		compiler := &compiler{high: 8, data: data}
		compiler.watch(data.New(), 5, &fsnotify.InotifyWdEntry{Wd: new(uint32(3)), Mask: &c.mask, FHandle: &fh.FhEntry{Path: &c.name}})
		if got := strings.Join(compiler.reasons, "\n"); got != c.want {
			t.Errorf("%q for %#x: refused with %q, want %q", c.name, c.mask, got, c.want)
		}
	}
}

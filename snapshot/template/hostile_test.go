package template

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// Images may come from anywhere. What follows is made up, and nothing of it may get as far as a system call of a template,
// which has all powers of the host.

func TestMadeUpMappings(t *testing.T) {
	const anon, file, shared = 1 | criu.VMAAnonPrivate, 1 | criu.VMAFilePrivate, 1 | criu.VMAFileShared
	for _, c := range []struct {
		what                string
		start, end, pgoff   uint64
		prot, flags, status uint32
		ok                  bool
	}{
		{"memory", 0x10000, 0x20000, 0, 3, 0x22, anon, true},
		{"a stack", 0x7ffed2f96000, 0x7ffed2fb7000, 0, 3, 0x122, anon, true},
		{"a library", 0x10000, 0x20000, 0x3000, 5, 2, file, true},
		{"a shared file", 0x10000, 0x20000, 0, 3, 1, shared, true},
		{"the vsyscall page", 0xffffffffff600000, 0xffffffffff601000, 0, 4, 0x22, anon | criu.VMAVsyscall, true},
		{"a guard in its place", 0xffffffffff600000, 0xffffffffff601000, 0, 4, 0x22, anon | criu.VMAVsyscall | criu.VMAGuard, false},
		{"the vsyscall page as a file", 0xffffffffff600000, 0xffffffffff601000, 0, 4, 0x22, file | criu.VMAVsyscall, false},
		{"the vsyscall page elsewhere", 0x10000, 0x20000, 0, 3, 0x21, anon | criu.VMAVsyscall, false},
		{"an address of the kernel's", 0xffff888000000000, 0xffff888000001000, 0, 3, 0x22, anon, false},
		{"the last page", taskEnd - 0x1000, taskEnd + 0x1000, 0, 3, 0x22, anon, false},
		{"all there is", 0, 1<<64 - 0x1000, 0, 3, 0x22, anon, false},
		{"an end before its start", 0x20000, 0x10000, 0, 3, 0x22, anon, false},
		{"nothing", 0x20000, 0x20000, 0, 3, 0x22, anon, false},
		{"half a page", 0x20800, 0x30000, 0, 3, 0x22, anon, false},
		{"half a page of a file", 0x20000, 0x30000, 0x10, 3, 2, file, false},
		{"private memory that clones would share", 0x10000, 0x20000, 0, 3, 0x21, anon, false},
		{"a private file that clones would share", 0x10000, 0x20000, 0, 3, 1, file, false},
		{"both at once", 0x10000, 0x20000, 0, 3, 0x22, anon | criu.VMAAnonShared, false},
		{"shared memory that is private", 0x10000, 0x20000, 0, 3, 2, shared, false},
		{"memory that is there from the start", 0x10000, 0x20000, 0, 3, 0x8022, anon, false},
		{"a protection that there is not", 0x10000, 0x20000, 0, 0x1000003, 0x22, anon, false},
	} {
		why := impossible(&vma.VmaEntry{Start: &c.start, End: &c.end, Pgoff: &c.pgoff, Prot: &c.prot, Flags: &c.flags, Status: &c.status})
		if (why == "") != c.ok {
			t.Errorf("%s: %q", c.what, why)
		}
	}
}

// TestMappingsOutOfOrder has mappings that lie over one another, or are not ascending: what follows computes with that.
func TestMappingsOutOfOrder(t *testing.T) {
	mapping := func(start, end uint64) *vma.VmaEntry {
		return &vma.VmaEntry{Start: &start, End: &end, Pgoff: new(uint64(0)), Prot: new(uint32(3)), Flags: new(uint32(0x22)), Status: new(uint32(1 | criu.VMAAnonPrivate))}
	}
	for name, vmas := range map[string][]*vma.VmaEntry{
		"":               {mapping(0x10000, 0x20000), mapping(0x20000, 0x30000), mapping(0x7f0000000000, 0x7f0000010000)},
		"descending":     {mapping(0x7f0000000000, 0x7f0000010000), mapping(0x10000, 0x20000)},
		"overlapping":    {mapping(0x10000, 0x20000), mapping(0x1f000, 0x30000)},
		"far below":      {mapping(0x40000000, 0x40201000), mapping(0x1000, 0x40200000)},
		"the same twice": {mapping(0x10000, 0x20000), mapping(0x10000, 0x20000)},
	} {
		c := &compiler{}
		c.checkMappings(&criu.Task{Space: &mm.MmEntry{Vmas: vmas}})
		if got := strings.Join(c.reasons, "; "); (name == "") != (got == "") || name != "" && !strings.Contains(got, "the one before") {
			t.Errorf("%q: %q", name, got)
		}
		stored := make([][]criu.PageRun, len(vmas))
		for i, v := range vmas {
			stored[i] = []criu.PageRun{{Start: v.GetStart(), End: v.GetEnd()}}
		}
		const from, limit = 1 << 45, 1 << 46
		for i, to := range layDense(vmas, stored, from, limit).to {
			if end := to + vmas[i].GetEnd() - vmas[i].GetStart(); to < from || end > limit {
				t.Errorf("%q: mapping %d is filled at %x-%x", name, i, to, end)
			}
		}
	}
}

func TestMadeUpNumbers(t *testing.T) {
	everything := xsaveLayout{features: 1<<10 - 1}
	if _, err := findHome(nil, 10_000_000, everything); err == nil {
		t.Error("a process has ten million threads")
	}
	for _, high := range []int{maxDescriptors + 1, 1 << 32} {
		c := &compiler{high: high}
		c.descriptors(nil, &criu.Task{}) // and takes no memory for each
		if len(c.reasons) != 1 || !strings.Contains(c.reasons[0], fmt.Sprintf("descriptor %d: not a number", high-1)) {
			t.Errorf("a descriptor %d: %v", high-1, c.reasons)
		}
	}
}

// TestNamespacesOfTheHost has images say that the process was in namespaces of the host. A clone would give the host its name.
func TestNamespacesOfTheHost(t *testing.T) {
	s := newStage(t)
	s.donor("plumbing")
	images, err := criu.Open(s.images)
	must(t, err)
	own := images.RootNamespaces()
	for name, change := range map[string]func(*criu.Task){
		"":                   func(*criu.Task) {},
		"the host's name":    func(t *criu.Task) { t.IDs.UtsNsId = new(own.GetUtsNsId()) },
		"its shared memory":  func(t *criu.Task) { t.IDs.IpcNsId = new(own.GetIpcNsId()) },
		"no pid namespace":   func(t *criu.Task) { t.IDs.PidNsId = new(own.GetPidNsId()) },
		"no mount namespace": func(t *criu.Task) { t.IDs.MntNsId = new(own.GetMntNsId()) },
	} {
		tasks, err := images.Tasks()
		must(t, err)
		c := &compiler{images: images, config: &snapshot.Config{}}
		change(tasks[0])
		c.checkFirst(tasks[0])
		if got := strings.Join(c.reasons, "; "); name == "" && got != "" || !strings.Contains(got, name) {
			t.Errorf("%q: %q", name, got)
		}
	}
}

// TestLinksToOpenFiles has images name files by way of the links in /proc that lead to what the stub has open, which is not
// the container's: directly, and by a symbolic link of the container's own.
func TestLinksToOpenFiles(t *testing.T) {
	s := newStage(t)
	secret, err := os.Create(filepath.Join(t.TempDir(), "secret"))
	must(t, err)
	defer secret.Close()
	link := fmt.Sprintf("/proc/self/fd/%d", replayHigh)
	must(t, os.Symlink(link, filepath.Join(s.root, "link")))
	must(t, os.WriteFile(filepath.Join(s.root, "plain"), nil, 0o600))
	for name, want := range map[string]syscall.Errno{
		link: syscall.ELOOP, "/link": syscall.ELOOP, "/./link": syscall.ELOOP, "/proc/self/exe": syscall.ELOOP, "/proc/self/root/plain": syscall.ELOOP,
		"/proc/self/status": 0, "/plain": 0,
	} {
		data := recipe.NewData(replayBase)
		e := &fdinfo.FdinfoEntry{Fd: new(uint32(5)), Flags: new(uint32(0)), Id: new(uint32(1)), Type: fdinfo.FdTypes_REG.Enum()}
		f := &fdinfo.FileEntry{Reg: &regfile.RegFileEntry{Name: &name, Mode: new(uint32(0o100644)), Flags: new(uint32(syscall.O_RDWR))}}
		if strings.HasSuffix(name, "status") {
			f.Reg.Flags = new(uint32(syscall.O_RDONLY))
		}
		d := &descriptors{c: &compiler{high: 8, data: data}, r: data.New(), table: newTable(8), ids: []uint32{1},
			t:     &criu.Task{Tree: &pstree.PstreeEntry{Pid: new(uint32(1))}, FDs: []*fdinfo.FdinfoEntry{e}},
			byID:  map[uint32][]*fdinfo.FdinfoEntry{1: {e}},
			files: map[uint32]*fdinfo.FileEntry{1: f}, done: make(map[uint32]bool), words: make(map[string]recipe.Addr)}
		d.open(1, f)
		n, at := d.r.Len(), d.r.Store()
		path := filepath.Join(t.TempDir(), "recipe")
		must(t, os.WriteFile(path, append(pack([4]uint64{uint64(replayBase), uint64(len(data.Memory())), uint64(at), uint64(n)}), data.Memory()...), 0o600))
		_, said := s.start([]*os.File{secret}, "replay", s.root, path, "")
		failed := fmt.Sprintf("CALL 0 %d\n", -int(want))
		if want != 0 && !strings.HasPrefix(said, failed) || want == 0 && strings.HasPrefix(said, "CALL") {
			t.Errorf("open %s: %q, want %q", name, said[:min(len(said), 80)], failed)
		}
	}
}

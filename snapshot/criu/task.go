package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	fsimage "github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pipe-data"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/utsns"
)

// Task is all that the images say of one process, as CRIU's own messages, whose documentation is CRIU's.
type Task struct {
	Tree    *pstree.PstreeEntry
	Core    *criu_core.CoreEntry   // of the process, and of its first thread
	Threads []*criu_core.CoreEntry // of every thread, in the order of Tree.Threads; the first is Core
	IDs     *criu_core.TaskKobjIdsEntry
	Space   *mm.MmEntry
	Pages   []PageRun // stored pages of its private memory, ascending
	FS      *fsimage.FsEntry
	FDs     []*fdinfo.FdinfoEntry
}

// Tasks returns every process, parents before their children. A zombie has neither Space nor what follows it.
func (im *Images) Tasks() ([]*Task, error) {
	out := make([]*Task, 0, len(im.tree))
	for _, e := range im.tree {
		t, err := im.task(e)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (im *Images) task(e *pstree.PstreeEntry) (*Task, error) {
	t := &Task{Tree: e, IDs: &criu_core.TaskKobjIdsEntry{}, FS: &fsimage.FsEntry{}}
	tids, err := im.threads(e)
	if err != nil {
		return nil, err
	}
	for _, tid := range tids {
		core, err := im.core(tid)
		if err != nil {
			return nil, err
		}
		t.Threads = append(t.Threads, core)
		if tid == e.GetPid() {
			t.Core = core
		}
	}
	if t.Core == nil || t.Core != t.Threads[0] {
		return nil, corrupt(filepath.Join(im.dir, "pstree.img"), "the first thread of %d is not itself", e.GetPid())
	}
	if t.Space, err = im.mm(e.GetPid()); err != nil || t.Space == nil {
		return t, err
	}
	if err := readOne(im.dir, fmt.Sprintf("ids-%d.img", e.GetPid()), magicIDs, t.IDs); err != nil {
		return nil, im.complete(err)
	}
	if err := readOne(im.dir, fmt.Sprintf("fs-%d.img", e.GetPid()), magicFS, t.FS); err != nil {
		return nil, im.complete(err)
	}
	if t.FDs, err = readAll[fdinfo.FdinfoEntry](im.dir, fmt.Sprintf("fdinfo-%d.img", t.IDs.GetFilesId()), magicFdinfo, true); err != nil {
		return nil, err
	}
	t.Pages, err = im.stored(e.GetPid())
	return t, err
}

// threads returns the ids of a process's threads. Of a zombie, which has an image of its own alone, CRIU writes down ids
// that mean nothing.
func (im *Images) threads(e *pstree.PstreeEntry) ([]uint32, error) {
	space, err := im.mm(e.GetPid())
	if err != nil || space == nil {
		return []uint32{e.GetPid()}, err
	}
	return e.GetThreads(), nil
}

// stored returns all stored pages of a process.
func (im *Images) stored(pid uint32) ([]PageRun, error) {
	p, err := im.pagemap(pid)
	if err != nil {
		return nil, err
	}
	var out []PageRun
	for _, r := range p.runs {
		if r.flags&flagParent != 0 {
			return nil, corrupt(filepath.Join(im.dir, fmt.Sprintf("pagemap-%d.img", pid)), "continues a parent dump")
		}
		if r.present() {
			out = append(out, PageRun{Start: r.addr, End: r.end(), File: pagesName(p.pagesID), Offset: r.offset})
		}
	}
	return out, nil
}

// SharedPages returns the stored pages of a piece of shared memory, by offset in it.
func (im *Images) SharedPages(id uint64) ([]PageRun, error) {
	p, err := im.shared(id)
	if err != nil {
		return nil, err
	}
	var out []PageRun
	for _, r := range p.runs {
		if r.present() {
			out = append(out, PageRun{Start: r.addr, End: r.end(), File: pagesName(p.pagesID), Offset: r.offset})
		}
	}
	return out, nil
}

// File returns an open file by the id that a descriptor, a mapping or a working directory has it by; nil when the images
// have none.
func (im *Images) File(id uint32) (*fdinfo.FileEntry, error) {
	files, err := im.files()
	return files[id], err
}

// RootNamespaces returns the ids of the namespaces that the capturing CRIU was in: a task with the same id is in the host's.
func (im *Images) RootNamespaces() *criu_core.TaskKobjIdsEntry { return im.inventory.GetRootIds() }

// Pipe is what was written to a pipe and not yet read, and how large its buffer is; 0 is the kernel's default.
type Pipe struct {
	Size    uint32
	Content []byte
}

// PipeContents returns by id the pipes and fifos about whose buffers there is anything to say.
func (im *Images) PipeContents() (map[uint32]Pipe, error) {
	out := make(map[uint32]Pipe)
	for name, magic := range map[string]uint32{"pipes-data.img": magicPipesData, "fifo-data.img": magicFifoData} {
		if err := im.pipeContents(name, magic, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// pipeContents reads an image in which the bytes of a pipe follow its record.
func (im *Images) pipeContents(name string, magic uint32, out map[uint32]Pipe) error {
	path := filepath.Join(im.dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for b, err = afterMagic(b, magic); err == nil && len(b) > 0; {
		var record []byte
		if record, b, err = nextRecord(b); err != nil {
			break
		}
		var e pipe_data.PipeDataEntry
		if err = decode(path, record, &e); err != nil {
			break
		}
		if uint64(e.GetBytes()) > uint64(len(b)) {
			err = errors.New("ends within the content of a pipe")
			break
		}
		out[e.GetPipeId()] = Pipe{Size: e.GetSize(), Content: b[:e.GetBytes():e.GetBytes()]}
		b = b[e.GetBytes():]
	}
	if err != nil {
		return corrupt(path, "%w", err)
	}
	return nil
}

// Clocks returns what the container's CLOCK_MONOTONIC and CLOCK_BOOTTIME were at the capture; nil where the images do not
// say.
func (im *Images) Clocks() (*timens.TimensEntry, error) {
	paths, err := filepath.Glob(filepath.Join(im.dir, "timens-*.img"))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	t := &timens.TimensEntry{}
	return t, readOne(im.dir, filepath.Base(paths[0]), magicTimens, t)
}

// Segments returns the segments of System V shared memory.
func (im *Images) Segments() ([]*ipc_shm.IpcShmEntry, error) {
	paths, err := filepath.Glob(filepath.Join(im.dir, "ipcns-shm-*.img"))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	return readAll[ipc_shm.IpcShmEntry](im.dir, filepath.Base(paths[0]), magicIpcnsShm, false)
}

// Has says whether there is an image file whose name matches the pattern and that has at least one record.
func (im *Images) Has(pattern string) (bool, error) {
	paths, err := filepath.Glob(filepath.Join(im.dir, pattern))
	if err != nil {
		return false, err
	}
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			return false, err
		}
		if fi.Size() > 8 { // the magic numbers
			return true, nil
		}
	}
	return false, nil
}

// Filters returns the seccomp filters of the dump, each of which may stand on another.
func (im *Images) Filters() ([]*seccomp.SeccompFilter, error) {
	e := &seccomp.SeccompEntry{}
	err := readOne(im.dir, "seccomp.img", magicSeccomp, e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return e.GetSeccompFilters(), err
}

// Domainname returns the NIS domain name of the container; "" where the images have none.
func (im *Images) Domainname() (string, error) {
	paths, err := filepath.Glob(filepath.Join(im.dir, "utsns-*.img"))
	if err != nil || len(paths) == 0 {
		return "", err
	}
	e := &utsns.UtsnsEntry{}
	err = readOne(im.dir, filepath.Base(paths[0]), magicUtsns, e)
	return e.GetDomainname(), err
}

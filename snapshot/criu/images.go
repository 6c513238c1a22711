package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Images are the images of one dump, read as they are asked for. Damaged images give errors of kind corrupt. An Images
// may be used by several goroutines.
type Images struct {
	dir       string
	inventory *inventory.InventoryEntry
	tree      []*pstree.PstreeEntry
	files     func() (map[uint32]*fdinfo.FileEntry, error)
	order     func() ([]*fdinfo.FileEntry, error)
	memfds    func() (map[uint32]*memfd.MemfdInodeEntry, error)
}

// Open reads what every dump has: the inventory and the process tree.
func Open(dir string) (*Images, error) {
	im := &Images{dir: dir, inventory: &inventory.InventoryEntry{}}
	err := readOne(dir, "inventory.img", magicInventory, im.inventory)
	if errors.Is(err, fs.ErrNotExist) {
		err = corrupt(dir, "no images of CRIU: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if im.tree, err = readAll[pstree.PstreeEntry](dir, "pstree.img", magicPstree, false); err != nil {
		return nil, err
	}
	if len(im.tree) == 0 {
		return nil, corrupt(filepath.Join(dir, "pstree.img"), "has no process")
	}
	im.order = sync.OnceValues(func() ([]*fdinfo.FileEntry, error) {
		return readAll[fdinfo.FileEntry](dir, "files.img", magicFiles, true)
	})
	im.files = sync.OnceValues(im.indexFiles)
	im.memfds = sync.OnceValues(im.indexMemfds)
	return im, nil
}

func (im *Images) indexFiles() (map[uint32]*fdinfo.FileEntry, error) {
	all, err := im.order()
	if err != nil {
		return nil, err
	}
	index := make(map[uint32]*fdinfo.FileEntry, len(all))
	for _, f := range all {
		// A fifo has two entries of one id; the one that names it comes first.
		if old, taken := index[f.GetId()]; !taken || old.GetReg() == nil {
			index[f.GetId()] = f
		}
	}
	return index, nil
}

func (im *Images) indexMemfds() (map[uint32]*memfd.MemfdInodeEntry, error) {
	all, err := readAll[memfd.MemfdInodeEntry](im.dir, "memfd.img", magicMemfd, true)
	if err != nil {
		return nil, err
	}
	index := make(map[uint32]*memfd.MemfdInodeEntry, len(all))
	for _, m := range all {
		index[uint32(m.GetInodeId())] = m
	}
	return index, nil
}

func (im *Images) core(pid uint32) (*criu_core.CoreEntry, error) {
	c := &criu_core.CoreEntry{}
	err := readOne(im.dir, coreName(pid), magicCore, c)
	return c, im.complete(err)
}

// mm returns the address space of a process; nil for one that has none, a zombie.
func (im *Images) mm(pid uint32) (*mm.MmEntry, error) {
	m := &mm.MmEntry{}
	err := readOne(im.dir, fmt.Sprintf("mm-%d.img", pid), magicMM, m)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return m, err
}

// pagemap returns the pages of a process; an empty one for a process that has none.
func (im *Images) pagemap(pid uint32) (*pagemap, error) {
	return im.optionalPagemap(fmt.Sprintf("pagemap-%d.img", pid))
}

// shared returns the pages of a piece of shared memory.
func (im *Images) shared(id uint64) (*pagemap, error) {
	return im.optionalPagemap(fmt.Sprintf("pagemap-shmem-%d.img", id))
}

func (im *Images) optionalPagemap(name string) (*pagemap, error) {
	p, err := readPagemap(im.dir, name)
	if errors.Is(err, fs.ErrNotExist) && snapshot.KindOf(err) != snapshot.KindCorrupt {
		return &pagemap{}, nil
	}
	return p, err
}

// complete turns the absence of a file that every process has into damage.
func (im *Images) complete(err error) error {
	if errors.Is(err, fs.ErrNotExist) && snapshot.KindOf(err) != snapshot.KindCorrupt {
		return corrupt(im.dir, "%w", err)
	}
	return err
}

// Processes returns the processes, in the order of the process tree: parents before their children.
func (im *Images) Processes() ([]snapshot.Process, error) {
	out := make([]snapshot.Process, 0, len(im.tree))
	for _, e := range im.tree {
		core, err := im.core(e.GetPid())
		if err != nil {
			return nil, err
		}
		pages, err := im.pagemap(e.GetPid())
		if err != nil {
			return nil, err
		}
		out = append(out, snapshot.Process{
			Pid:     int(e.GetPid()),
			PPid:    int(e.GetPpid()),
			Comm:    core.GetTc().GetComm(),
			Threads: len(e.GetThreads()),
			UID:     core.GetThreadCore().GetCreds().GetUid(),
			Bytes:   pages.stored() * pageSize,
		})
	}
	return out, nil
}

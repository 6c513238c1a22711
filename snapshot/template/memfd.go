package template

import (
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

const (
	mfdCloexec, mfdAllowSealing = 1, 2
	sealSeal, sealFutureWrite   = 1, 0x10
)

// memfd makes a file in memory, a copy of the clone's own, and all that is open of it.
func (d *descriptors) memfd(id uint32, e *memfd.MemfdFileEntry) {
	inode, err := d.c.images.Memfd(id)
	if err != nil || inode == nil {
		d.refuse(id, "a memfd that the images say too little of: %v", err)
		return
	}
	var ids []uint32
	for _, o := range d.ids {
		if m := d.files[o].GetMemfd(); m != nil && m.GetInodeId() == e.GetInodeId() {
			d.done[o] = true
			ids = append(ids, o)
		}
	}
	mode, hasMode, err := criu.MemfdMode(inode)
	switch {
	case err != nil:
		d.refuse(id, "a memfd: %v", err)
	case inode.GetHugetlbFlag() != 0:
		d.refuse(id, "the memfd %q, which is of huge pages", inode.GetName())
	case inode.GetSeals()&sealFutureWrite != 0 && d.mapped(e.GetInodeId()):
		d.refuse(id, "the memfd %q, which is mapped and sealed against being mapped so again", inode.GetName())
	}
	// Whether it is closed on exec is said here in other bits than elsewhere.
	flags := uint32(mfdAllowSealing)
	if inode.GetSeals() == sealSeal {
		flags = 0
	}
	h := d.make(id, "memfd "+inode.GetName(), recipe.MemfdCreate, d.string(inode.GetName()), recipe.Int(flags|mfdCloexec))
	d.memfdContent(id, h, inode)
	if inode.GetUid() != 0 || inode.GetGid() != 0 {
		d.call(id, "set the owner", recipe.Fchown, h.arg(), recipe.Int(inode.GetUid()), recipe.Int(inode.GetGid()))
	}
	if hasMode && mode != 0o777 {
		d.call(id, "set permissions", recipe.Fchmod, h.arg(), recipe.Int(mode))
	}
	d.memfdFiles(ids, h, inode)
}

// memfdFiles opens a memfd again for all that is open of it but one, for which it was made, and seals it.
func (d *descriptors) memfdFiles(ids []uint32, h *handle, inode *memfd.MemfdInodeEntry) {
	first := true
	source := h.n
	var rest []uint32
	for _, o := range ids {
		// The first that is open for both keeps what was made: only that can be executed.
		if f := d.files[o].GetMemfd(); first && f.GetFlags()&syscall.O_ACCMODE == syscall.O_RDWR {
			first = false
			d.place(h, o, syscall.O_CLOEXEC)
			d.params(o, h.arg(), f.GetFlags(), 0, f.GetFown())
			d.seek(o, h, f.GetPos())
			source = d.fd(o)
			continue
		}
		rest = append(rest, o)
	}
	for _, o := range rest {
		f := d.files[o].GetMemfd()
		again := d.reopen(o, source, f.GetFlags())
		d.place(again, o, d.cloexec(o))
		d.owner(o, again.arg(), f.GetFown())
		d.seek(o, again, f.GetPos())
		source = d.fd(o)
	}
	if seals := inode.GetSeals(); seals != 0 && seals != sealSeal {
		d.call(ids[0], "seal", recipe.Fcntl, h.arg(), recipe.Int(fAddSeals), recipe.Int(seals))
	}
	if first {
		d.drop(h)
	}
}

// memfdContent copies the stored pages into a memfd. What is not stored is zero.
func (d *descriptors) memfdContent(id uint32, h *handle, inode *memfd.MemfdInodeEntry) {
	runs, err := d.c.images.SharedPages(uint64(inode.GetShmid()))
	if err != nil {
		d.refuse(id, "the memfd %q: %v", inode.GetName(), err)
		return
	}
	size := inode.GetSize()
	for _, r := range runs {
		if end := min(r.End, size); r.Start < end {
			d.copyIn(id, h, r.File, r.Offset, int64(r.Start), int64(end-r.Start))
		}
	}
	if size != 0 {
		d.call(id, "set the size", recipe.Ftruncate, h.arg(), recipe.Int(size))
	}
}

// mapped says whether the process has a memfd mapped. Mappings are made when all descriptors are there.
func (d *descriptors) mapped(inode uint32) bool {
	for _, v := range d.t.Space.GetVmas() {
		if v.GetStatus()&criu.VMAMemfd == 0 {
			continue
		}
		if f, err := d.c.images.File(uint32(v.GetShmid())); err != nil || f.GetMemfd().GetInodeId() == inode {
			return true
		}
	}
	return false
}

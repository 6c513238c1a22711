package template

import (
	"fmt"
	"maps"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// ownMemory adds what a fork does not give a clone: shared mappings of its own, in the place of those that it would
// share with its siblings, memory that was kept from forks, and locks.
func (c *compiler) ownMemory(r *recipe.Recipe, t *criu.Task) {
	c.segments(r, t)
	first := make(map[uint64]*vma.VmaEntry) // shared memory that is mapped already, by id
	loose := make(map[uint64]recipe.Addr)   // memfds that no process has a descriptor of, by inode
	for _, v := range t.Space.GetVmas() {
		switch s := v.GetStatus(); {
		case s&criu.VMASysV != 0: // see segments
		case s&criu.VMAMemfd != 0:
			c.mapMemfd(r, t, v, loose)
		case s&criu.VMAAnonShared != 0:
			c.mapShared(r, v, first)
		case s&criu.VMAFileShared != 0:
			c.mapFile(r, v)
		case s&criu.VMAAIO != 0:
			c.mapRing(r, t, v)
		}
		at, length := recipe.Int(v.GetStart()), recipe.Int(v.GetEnd()-v.GetStart())
		what := fmt.Sprintf(" %x-%x", v.GetStart(), v.GetEnd())
		for _, a := range advice {
			if !private(v) && v.GetStatus()&(criu.VMAVdso|criu.VMAVvar|criu.VMAVsyscall|criu.VMAGuard) == 0 && v.GetMadv()>>a&1 == 1 {
				r.Call("advise"+what, recipe.Madvise, at, length, recipe.Int(a))
			}
		}
		if v.GetMadv()>>madvDontFork&1 == 1 {
			r.Call("keep from forks"+what, recipe.Madvise, at, length, recipe.Int(madvDontFork))
		}
		if v.GetFlags()&mapLocked != 0 {
			r.Call("lock"+what, recipe.Mlock, at, length)
		}
	}
	for _, inode := range slices.Sorted(maps.Keys(loose)) {
		r.Call("close a memfd", recipe.Close, recipe.Load(loose[inode]))
	}
}

func (c *compiler) mapShared(r *recipe.Recipe, v *vma.VmaEntry, first map[uint64]*vma.VmaEntry) {
	at, length := recipe.Int(v.GetStart()), v.GetEnd()-v.GetStart()
	what := fmt.Sprintf("shared memory %x-%x", v.GetStart(), v.GetEnd())
	flags := uint32(mapShared|mapFixed) | v.GetFlags()&^(mapType|mapLocked)
	if f := first[v.GetShmid()]; f != nil {
		if v.GetPgoff()+length > f.GetEnd()-f.GetStart() {
			c.refuse("%s: it is larger than its first mapping", what)
			return
		}
		fd := r.Data().Space(8)
		name := fmt.Sprintf("/proc/self/map_files/%x-%x", f.GetStart(), f.GetEnd())
		r.Call(what, recipe.Openat, recipe.Int(atFDCWD), recipe.At(r.Data().String(name)), recipe.Int(2|oCloexec), recipe.Int(0)).Into(fd)
		r.Call(what, recipe.Mmap, at, recipe.Int(length), recipe.Int(v.GetProt()), recipe.Int(flags&^mapAnonymous), recipe.Load(fd), recipe.Int(v.GetPgoff()))
		r.Call(what, recipe.Close, recipe.Load(fd))
		return
	}
	first[v.GetShmid()] = v
	runs, err := c.images.SharedPages(v.GetShmid())
	if err != nil {
		c.refuse("%s: %v", what, err)
		return
	}
	if v.GetPgoff() != 0 || len(runs) > 0 && runs[len(runs)-1].End > length {
		c.refuse("%s: a part of it is not mapped", what)
		return
	}
	r.Call(what, recipe.Mmap, at, recipe.Int(length), recipe.Int(v.GetProt()|protWrite), recipe.Int(flags|mapAnonymous), recipe.Int(-1), recipe.Int(0))
	for _, p := range runs {
		r.Call(what, recipe.Pread, recipe.Int(c.open(p.File)), recipe.Int(v.GetStart()+p.Start), recipe.Int(p.End-p.Start), recipe.Int(p.Offset)).Want(int(p.End - p.Start))
	}
	if v.GetProt()&protWrite == 0 {
		r.Call(what, recipe.Mprotect, at, recipe.Int(length), recipe.Int(v.GetProt()))
	}
}

// mapFile maps a regular file of the clone's own.
func (c *compiler) mapFile(r *recipe.Recipe, v *vma.VmaEntry) {
	f, err := c.images.File(uint32(v.GetShmid()))
	if err != nil || f.GetReg() == nil {
		return // refused already
	}
	what := fmt.Sprintf("map %s at %x", f.GetReg().GetName(), v.GetStart())
	flags := v.GetFlags()&^mapLocked | mapFixed
	start, length := recipe.Int(v.GetStart()), recipe.Int(v.GetEnd()-v.GetStart())
	if c.remapped(uint32(v.GetShmid())) {
		r.Call(what, recipe.Mmap, start, length, recipe.Int(v.GetProt()), recipe.Int(flags), recipe.Int(c.holders[uint32(v.GetShmid())].staged), recipe.Int(v.GetPgoff()))
		return
	}
	mode := uint32(oCloexec)
	if v.Fdflags != nil {
		mode |= v.GetFdflags() & 3
	} else if v.GetProt()&protWrite != 0 {
		mode |= 2
	}
	fd := r.Data().Space(8)
	r.Call(what, recipe.Openat2, recipe.Int(atFDCWD), recipe.At(r.Data().String(f.GetReg().GetName())), recipe.At(r.Data().Bytes(openHow(mode))),
		recipe.Int(howSize)).Into(fd)
	r.Call(what, recipe.Mmap, start, length, recipe.Int(v.GetProt()), recipe.Int(flags), recipe.Load(fd), recipe.Int(v.GetPgoff()))
	r.Call(what, recipe.Close, recipe.Load(fd))
}

// mapMemfd maps a memfd of the clone's own: one of which it has a descriptor, or else one that is made for its mappings.
// CRIU takes all shared memory without a file for memfds.
func (c *compiler) mapMemfd(r *recipe.Recipe, t *criu.Task, v *vma.VmaEntry, loose map[uint64]recipe.Addr) {
	fds := t.FDs
	if c.staged != nil {
		fds = c.staged.FDs
	}
	inode := c.memfdInode(v)
	var fd recipe.Arg
	if n := c.heldMemfd(fds, v); n >= 0 {
		fd = recipe.Int(n)
	} else if at, ok := c.loose[inode]; ok {
		fd = recipe.Load(at)
	} else {
		at, ok := loose[inode]
		if !ok {
			at = c.looseMemfd(r, v)
			loose[inode] = at
		}
		fd = recipe.Load(at)
	}
	flags := v.GetFlags()&^(mapLocked|mapAnonymous) | mapFixed
	r.Call(fmt.Sprintf("map a memfd at %x", v.GetStart()), recipe.Mmap, recipe.Int(v.GetStart()), recipe.Int(v.GetEnd()-v.GetStart()),
		recipe.Int(v.GetProt()), recipe.Int(flags), fd, recipe.Int(v.GetPgoff()))
}

// heldMemfd returns the descriptor of the memfd that v is a mapping of, which can have been mapped so; below 0: there is none.
func (c *compiler) heldMemfd(fds []*fdinfo.FdinfoEntry, v *vma.VmaEntry) int {
	for _, d := range fds {
		f, err := c.images.File(d.GetId())
		if err != nil || d.GetType() != fdinfo.FdTypes_MEMFD || uint64(f.GetMemfd().GetInodeId()) != c.memfdInode(v) {
			continue
		}
		if mode := f.GetMemfd().GetFlags() & 3; mode != 0 || v.GetFdflags()&3 == 0 {
			return int(d.GetFd())
		}
	}
	return -1
}

// looseMemfd makes a memfd with the content of the one that v is a mapping of, and returns where its descriptor is kept.
func (c *compiler) looseMemfd(r *recipe.Recipe, v *vma.VmaEntry) recipe.Addr {
	what := fmt.Sprintf("shared memory at %x", v.GetStart())
	at := r.Data().Space(8)
	inode, err := c.images.Memfd(uint32(v.GetShmid()))
	if err != nil || inode == nil {
		c.refuse("%s: the images say too little of it: %v", what, err)
		return at
	}
	runs, err := c.images.SharedPages(uint64(inode.GetShmid()))
	switch {
	case err != nil:
		c.refuse("%s: %v", what, err)
	case inode.GetHugetlbFlag() != 0:
		c.refuse("%s: pages of hugetlbfs", what)
	case inode.GetSeals()&^sealSeal != 0 || v.GetFdflags()&3 == 0:
		c.refuse("%s: the process has no descriptor of that memfd, which is sealed or cannot be written to", what)
	}
	r.Call(what, recipe.MemfdCreate, recipe.At(r.Data().String(inode.GetName())), recipe.Int(mfdCloexec)).Into(at)
	r.Call(what, recipe.Ftruncate, recipe.Load(at), recipe.Int(inode.GetSize()))
	for _, p := range runs {
		from := p.Offset
		r.Call(what, recipe.Lseek, recipe.Load(at), recipe.Int(p.Start), recipe.Int(0)).Want(int(p.Start))
		for left := min(p.End, inode.GetSize()); p.Start < left; {
			n := min(left-p.Start, 1<<30) // a call copies less than 2 GiB
			r.Call(what, recipe.Sendfile, recipe.Load(at), recipe.Int(c.open(p.File)), recipe.At(r.Data().Put(uint64(from))), recipe.Int(n)).Want(int(n))
			p.Start, from = p.Start+n, from+int64(n)
		}
	}
	return at
}

// memfdInode returns which memfd a mapping is of.
func (c *compiler) memfdInode(v *vma.VmaEntry) uint64 {
	f, err := c.images.File(uint32(v.GetShmid()))
	if err != nil || f.GetMemfd() == nil {
		return v.GetShmid()
	}
	return uint64(f.GetMemfd().GetInodeId())
}

package template

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// A template has one address space, and a container may have several processes. The first one's memory lies in it where that
// process had it. That of every other one lies elsewhere, in its shadow: a stretch that none of the processes used. A clone's
// processes are forked with all of it, and each moves its own memory out of its shadow to where it belongs.

// shadowUnit is what the places of memory differ by: a page table of the second level and all below it is moved as a whole.
const shadowUnit = 1 << 30

// shadow says where a process has its private memory in the template. The empty one says that it is in place.
type shadow struct {
	region        // all of it
	parts  []part // ascending
}

// part is memory of a process that lies in its shadow in one piece.
type part struct {
	region // of the process
	to     uint64
}

// newShadow lays the private memory of a process out from an address on.
func newShadow(vmas []*vma.VmaEntry, from uint64) shadow {
	s := shadow{region: region{from, from}}
	sorted := slices.SortedFunc(slices.Values(vmas), func(a, b *vma.VmaEntry) int { return cmp.Compare(a.GetStart(), b.GetStart()) })
	for _, v := range sorted {
		if !private(v) && v.GetStatus()&criu.VMAGuard == 0 {
			continue
		}
		if n := len(s.parts); n == 0 || v.GetStart() > s.parts[n-1].end && v.GetStart()-s.parts[n-1].end > shadowUnit {
			to := s.end + v.GetStart()%shadowUnit
			s.parts = append(s.parts, part{region{v.GetStart(), v.GetStart()}, to})
		}
		last := &s.parts[len(s.parts)-1]
		last.end = max(last.end, v.GetEnd())
		s.end = (last.to + last.end - last.start + shadowUnit) &^ (shadowUnit - 1)
	}
	return s
}

// at returns where an address of the process is in the template.
func (s shadow) at(a uint64) uint64 {
	if i := sort.Search(len(s.parts), func(i int) bool { return s.parts[i].end > a }); i < len(s.parts) && s.parts[i].start <= a {
		return s.parts[i].to + a - s.parts[i].start
	}
	return a
}

// placeShadows gives every process but the first a shadow, between the stub's home and the next mapping of any of them.
func (c *compiler) placeShadows(h home, end recipe.Addr) {
	limit := uint64(taskEnd)
	for _, p := range c.tree {
		for _, v := range p.Space.GetVmas() {
			if v.GetStart() > uint64(h.at) {
				limit = min(limit, v.GetStart())
			}
		}
	}
	c.limit = limit
	c.shadows.start = (uint64(h.park(end)) + parkRoom + shadowUnit - 1) &^ (shadowUnit - 1)
	c.shadows.end = c.shadows.start
	for _, p := range c.tree[1:] {
		p.shadow = newShadow(p.Space.GetVmas(), c.shadows.end)
		c.shadows.end = p.shadow.end
		if c.shadows.end >= limit || c.shadows.end < c.shadows.start {
			c.refuse("the address spaces of %d processes do not fit into one", len(c.tree))
			return
		}
	}
}

// takeMemory has a process, which was forked with everything that is in the template, keep what is its own and move that
// into place: its memory, its vdso and the signal frames of its threads.
func (c *compiler) takeMemory(r *recipe.Recipe, p *process, h home, end recipe.Addr) {
	park := uint64(h.park(end))
	was, err := vdsoOf(c.tree[0].Space.GetVmas())
	is, err2 := vdsoOf(p.Space.GetVmas())
	if err != nil || err2 != nil {
		return // refused already
	}
	move := func(what string, from, length, to uint64) {
		r.Call(what, recipe.Mremap, recipe.Int(from), recipe.Int(length), recipe.Int(length), recipe.Int(mremapMayMove|mremapFixed), recipe.Int(to))
	}
	for _, v := range c.host.vdso {
		off := v.start - c.host.vdso[0].start
		move("park the vdso", was.start+off, v.end-v.start, park+off)
	}
	r.Call("unmap below", recipe.Munmap, recipe.Int(0), recipe.At(h.at))
	r.Call("unmap between", recipe.Munmap, recipe.Int(park+parkRoom), recipe.Int(p.shadow.start-park-parkRoom))
	r.Call("unmap above", recipe.Munmap, recipe.Int(p.shadow.end), recipe.Int(taskEnd-p.shadow.end))
	for _, v := range p.Space.GetVmas() {
		if private(v) {
			move(fmt.Sprintf("move %x-%x", v.GetStart(), v.GetEnd()), p.shadow.at(v.GetStart()), v.GetEnd()-v.GetStart(), v.GetStart())
		}
	}
	for _, v := range c.host.vdso {
		off := v.start - c.host.vdso[0].start
		move("move the vdso", park+off, v.end-v.start, is.start+off)
	}
	c.takeFrames(r, p, h)
	exe := -1 // the first process's, which the fork has
	if name := c.exe(p); name != c.exe(c.tree[0]) {
		exe = c.keep(exePrefix + fmt.Sprint(p.Space.GetExeFileId()))
		c.checkExe(p)
	}
	c.describeSpace(r, p.Task, exe)
}

// takeFrames puts the signal frames of a process's threads in the place of those of the first process.
func (c *compiler) takeFrames(r *recipe.Recipe, p *process, h home) {
	b, err := c.frames(p.Task, h, roundUp(len(p.Threads)*c.host.xsave.stride()))
	if err != nil {
		c.refuse("%v", err)
		return
	}
	at := roundUp(uint64(c.data.Space(len(b) + pageSize)))
	copy(c.data.Memory()[at-uint64(h.scratch):], b)
	to := recipe.At(h.at + codeRoom)
	r.Call("unmap registers", recipe.Munmap, to, recipe.Int(h.frames))
	r.Call("take registers", recipe.Mremap, recipe.Int(at), recipe.Int(len(b)), recipe.Int(len(b)), recipe.Int(mremapMayMove|mremapFixed), to)
	r.Call("protect registers", recipe.Mprotect, to, recipe.Int(len(b)), recipe.Int(protRead))
}

// exePrefix begins the names of programs among what the template keeps open.
const exePrefix = "exe:"

// exeOf returns of which file such a name is, and whether it is one.
func exeOf(kept string) (id uint32, is bool) {
	_, err := fmt.Sscanf(kept, exePrefix+"%d", &id)
	return id, err == nil
}

// exe returns the path of a process's program.
func (c *compiler) exe(p *process) string {
	if f, err := c.images.File(p.Space.GetExeFileId()); err == nil {
		return f.GetReg().GetName()
	}
	return ""
}

// checkExe refuses a process that runs another program than the first one and has that one's program mapped: the kernel does
// not let it change then.
func (c *compiler) checkExe(p *process) {
	id := p.Space.GetExeFileId()
	if c.exe(p) == "" || c.remapped(id) {
		c.refuse("its program is not in the images, or was deleted")
	}
	for _, v := range p.Space.GetVmas() {
		if v.GetStatus()&(criu.VMAFilePrivate|criu.VMAFileShared) == 0 {
			continue
		}
		if f, err := c.images.File(uint32(v.GetShmid())); err == nil && f.GetReg() != nil && f.GetReg().GetName() == c.exe(c.tree[0]) {
			c.refuse("it has %s mapped, the first process's program, which is not its own", c.exe(c.tree[0]))
			return
		}
	}
}

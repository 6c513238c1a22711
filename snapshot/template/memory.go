package template

import (
	"bytes"
	"fmt"
	"path"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// mmap, mprotect and madvise, as in the kernel's headers.
const (
	protRead     = 1
	protWrite    = 2
	mapType      = 0xf
	mapShared    = 1
	mapPrivate   = 2
	mapDroppable = 8

	mapSharedValidate = 3
	// mapKnown are the flags that CRIU reads off a mapping: its kind, and ANONYMOUS, GROWSDOWN, LOCKED, NORESERVE, HUGETLB.
	mapKnown = mapType | mapAnonymous | 0x100 | mapLocked | 0x4000 | mapHuge

	mapFixed      = 0x10
	mapAnonymous  = 0x20
	mapLocked     = 0x2000
	mapHuge       = 0x40000
	mapNoReplace  = 0x100000
	mremapMayMove = 1
	mremapFixed   = 2

	madvDontFork      = 10
	madvPopulateWrite = 23
	madvCollapse      = 25
	madvGuardInstall  = 102

	hugePage = 2 << 20
	// collapsed is how many pages of a stretch of 2 MiB must be stored for it to become a huge page.
	collapsed = 128
)

// advice is what a captured mapping may have been advised, and the template's own can be: RANDOM, SEQUENTIAL, MERGEABLE,
// HUGEPAGE, NOHUGEPAGE, DONTDUMP, WIPEONFORK.
var advice = []int{1, 2, 12, 14, 15, 16, 18}

// private says whether a mapping is in the template. The others are made in each clone.
func private(v *vma.VmaEntry) bool {
	return v.GetStatus()&(criu.VMAFilePrivate|criu.VMAAnonPrivate) != 0 && v.GetStatus()&(criu.VMAVdso|criu.VMAVvar|criu.VMAVsyscall|criu.VMAGuard) == 0
}

// surroundings are what the memory of a template is made of that differs from one template to another.
type surroundings struct {
	images string   // directory with CRIU's images
	rootfs string   // directory with the snapshot's files, which may go once the template is built
	root   string   // empty directory on which the template's root is mounted
	vdso   []region // the stub's vdso and its data, ascending, in one piece
	end    recipe.Addr
}

type region struct{ start, end uint64 }

// memory adds to r the calls that give the template the private memory of all processes: a stub that has moved to h.
func (c *compiler) memory(r *recipe.Recipe, h home, s surroundings) {
	c.leaveOldPlace(r, h, s)
	pages := c.openPages(r, s)
	files := c.openMapped(r, s, len(pages))
	for _, p := range c.tree {
		c.about(p, func() { c.fill(r, p, pages, files) })
	}
	first := c.tree[0]
	c.moveVdso(r, first.Task, s)
	c.describeSpace(r, first.Task, files[first.Space.GetExeFileId()])
}

// fill makes the private memory of one process.
func (c *compiler) fill(r *recipe.Recipe, p *process, pages map[string]int, files map[uint32]int) {
	vmas := p.Space.GetVmas()
	stored := storedIn(vmas, p.Pages)
	elsewhere := &dense{}
	if !p.Space.GetThpDisabled() {
		elsewhere = layDense(vmas, stored, c.shadows.end, c.limit)
	}
	elsewhere.open(r)
	for i, v := range vmas {
		if private(v) && elsewhere.to[i] == 0 {
			c.mapPrivate(r, v, p.shadow.at(v.GetStart()), files[uint32(v.GetShmid())], len(stored[i]) > 0)
		}
	}
	c.collapse(r, p, elsewhere)
	for i, v := range vmas {
		place := p.shadow.at(v.GetStart())
		if at := elsewhere.to[i]; at != 0 {
			place = at
		}
		for _, run := range stored[i] {
			r.Call(fmt.Sprintf("read memory %x-%x", run.Start, run.End), recipe.Pread, recipe.Int(pages[run.File]), recipe.Int(place+run.Start-v.GetStart()),
				recipe.Int(run.End-run.Start), recipe.Int(run.Offset)).Want(int(run.End - run.Start))
		}
	}
	elsewhere.settle(r, p.shadow.at)
	for i, v := range vmas {
		if private(v) {
			c.protect(r, v, p.shadow.at(v.GetStart()), len(stored[i]) > 0 && elsewhere.to[i] == 0)
		}
		if v.GetStatus()&criu.VMAGuard != 0 {
			r.Call(fmt.Sprintf("guard %x-%x", v.GetStart(), v.GetEnd()), recipe.Madvise, recipe.Int(p.shadow.at(v.GetStart())),
				recipe.Int(v.GetEnd()-v.GetStart()), recipe.Int(madvGuardInstall))
		}
	}
}

// leaveOldPlace unmaps everything but the stub's home and the vdso, which is parked beyond it.
func (c *compiler) leaveOldPlace(r *recipe.Recipe, h home, s surroundings) {
	at := uint64(h.park(s.end))
	for _, v := range s.vdso {
		r.Call("park the vdso", recipe.Mremap, recipe.Int(v.start), recipe.Int(v.end-v.start), recipe.Int(v.end-v.start),
			recipe.Int(mremapMayMove|mremapFixed), recipe.Int(at+v.start-s.vdso[0].start))
	}
	r.Call("unmap below", recipe.Munmap, recipe.Int(0), recipe.At(h.at))
	if at > uint64(s.end) {
		r.Call("unmap between", recipe.Munmap, recipe.At(s.end), recipe.Int(at-uint64(s.end)))
	}
	end := at + parkRoom
	r.Call("unmap above", recipe.Munmap, recipe.Int(end), recipe.Int(taskEnd-end))
}

// openPages opens the files with the stored pages, and returns their descriptors.
func (c *compiler) openPages(r *recipe.Recipe, s surroundings) map[string]int {
	pages := make(map[string]int)
	for _, p := range c.tree {
		for _, run := range slices.Concat(storedIn(p.Space.GetVmas(), p.Pages)...) {
			if _, ok := pages[run.File]; !ok {
				n := len(pages)
				c.openFile(r, path.Join(s.images, run.File), n)
				pages[run.File] = n
			}
		}
	}
	return pages
}

const (
	atFDCWD   = -100
	oRdonly   = 0
	oCloexec  = 0o2000000
	oNonblock = 0o4000

	msNodev = 1 << 2
	msBind  = 1 << 12
)

func (c *compiler) openFile(r *recipe.Recipe, name string, want int) {
	r.Call("open "+name, recipe.Openat, recipe.Int(atFDCWD), recipe.At(r.Data().String(name)), recipe.Int(oRdonly|oCloexec), recipe.Int(0)).Want(want)
}

// openMapped opens the files that are mapped, with the snapshot's root for its own meanwhile, and returns their
// descriptors by file id. first is the lowest free descriptor.
func (c *compiler) openMapped(r *recipe.Recipe, s surroundings, first int) map[uint32]int {
	c.openFile(r, "/", first)
	r.Call("no devices in "+s.rootfs, recipe.Mount, recipe.Int(0), recipe.At(r.Data().String(s.rootfs)), recipe.Int(0),
		recipe.Int(msRemount|msBind|msNodev|msReadonly), recipe.Int(0))
	r.Call("enter "+s.rootfs, recipe.Chroot, recipe.At(r.Data().String(s.rootfs)))
	r.Call("change directory", recipe.Chdir, recipe.At(r.Data().String("/")))
	files := make(map[uint32]int)
	open := func(id uint32) {
		if _, ok := files[id]; ok {
			return
		}
		f, err := c.images.File(id)
		if err != nil || f.GetReg() == nil {
			return // refused already
		}
		n := first + 1 + len(files)
		// It may turn out to be something that one waits for, or a device: that is for the images to say, and they may lie.
		r.Call("open "+f.GetReg().GetName(), recipe.Openat, recipe.Int(atFDCWD), recipe.At(r.Data().String(f.GetReg().GetName())),
			recipe.Int(oRdonly|oCloexec|oNonblock), recipe.Int(0)).Want(n)
		files[id] = n
	}
	for _, p := range c.tree {
		for _, v := range p.Space.GetVmas() {
			if private(v) && v.GetStatus()&criu.VMAFilePrivate != 0 {
				open(uint32(v.GetShmid()))
			}
		}
	}
	open(c.tree[0].Space.GetExeFileId())
	for i, name := range c.kept {
		if id, is := exeOf(name); is {
			open(id)
			r.Call("keep a program", recipe.Dup3, recipe.Int(files[id]), recipe.Int(c.high+keptAt+i), recipe.Int(oCloexec))
		}
	}
	r.Call("leave "+s.rootfs, recipe.Fchdir, recipe.Int(first))
	r.Call("leave "+s.rootfs, recipe.Chroot, recipe.At(r.Data().String(".")))
	return files
}

// storedIn returns the stored pages of each mapping that the template has: none for the others.
func storedIn(vmas []*vma.VmaEntry, runs []criu.PageRun) [][]criu.PageRun {
	stored := make([][]criu.PageRun, len(vmas))
	for i, v := range vmas {
		if !private(v) {
			continue
		}
		for _, r := range runs {
			if from, to := max(r.Start, v.GetStart()), min(r.End, v.GetEnd()); from < to {
				stored[i] = append(stored[i], criu.PageRun{Start: from, End: to, File: r.File, Offset: r.Offset + int64(from-r.Start)})
			}
		}
	}
	return stored
}

func (c *compiler) mapPrivate(r *recipe.Recipe, v *vma.VmaEntry, at uint64, file int, filled bool) {
	prot, flags, fd := v.GetProt(), v.GetFlags()&^mapLocked, -1
	if filled {
		prot |= protWrite
	}
	if v.GetStatus()&criu.VMAFilePrivate != 0 {
		fd = file
	} else {
		flags |= mapAnonymous
	}
	r.Call(fmt.Sprintf("map %x-%x", v.GetStart(), v.GetEnd()), recipe.Mmap, recipe.Int(at),
		recipe.Int(v.GetEnd()-v.GetStart()), recipe.Int(prot), recipe.Int(flags|mapFixed|mapNoReplace), recipe.Int(fd), recipe.Int(v.GetPgoff()))
}

// protect gives a mapping that is filled its final protection, and advises what was advised.
func (c *compiler) protect(r *recipe.Recipe, v *vma.VmaEntry, at uint64, filled bool) {
	what := fmt.Sprintf(" %x-%x", v.GetStart(), v.GetEnd())
	if filled && v.GetProt()&protWrite == 0 {
		r.Call("protect"+what, recipe.Mprotect, recipe.Int(at), recipe.Int(v.GetEnd()-v.GetStart()), recipe.Int(v.GetProt()))
	}
	for _, a := range advice {
		if v.GetMadv()>>a&1 == 1 {
			r.Call("advise"+what, recipe.Madvise, recipe.Int(at), recipe.Int(v.GetEnd()-v.GetStart()), recipe.Int(a))
		}
	}
}

// collapse has the kernel take huge pages for what is about to be filled: a fork copies one entry for each, in place of
// 512. It is done while they are nearly empty, and where it cannot be done nothing but time is lost.
func (c *compiler) collapse(r *recipe.Recipe, owner *process, elsewhere *dense) {
	if owner.Space.GetThpDisabled() {
		return
	}
	full := make(map[uint64]uint64) // start of a stretch -> pages stored in it
	for _, p := range owner.Pages {
		for at := p.Start; at < p.End; {
			next := min(p.End, (at/hugePage+1)*hugePage)
			full[at/hugePage*hugePage] += (next - at) / pageSize
			at = next
		}
	}
	for i, v := range owner.Space.GetVmas() {
		if !private(v) || elsewhere.to[i] != 0 || v.GetStatus()&criu.VMAAnonPrivate == 0 || v.GetMadv()>>15&1 == 1 {
			continue
		}
		var huge stretches
		for at := (v.GetStart() + hugePage - 1) / hugePage * hugePage; at+hugePage <= v.GetEnd(); at += hugePage {
			if full[at] >= collapsed {
				huge.add(r, owner.shadow.at(at))
			}
		}
		huge.end(r)
	}
}

// stretches are made huge pages of, those that lie side by side in one call: the kernel waits for all processors in each.
type stretches struct{ group region }

func (s *stretches) add(r *recipe.Recipe, at uint64) {
	r.Call("touch", recipe.Madvise, recipe.Int(at), recipe.Int(pageSize), recipe.Int(madvPopulateWrite)).Try()
	if s.group.end != at {
		s.end(r)
		s.group.start = at
	}
	s.group.end = at + hugePage
}

func (s *stretches) end(r *recipe.Recipe) {
	if g := s.group; g.end > g.start {
		r.Call("collapse", recipe.Madvise, recipe.Int(g.start), recipe.Int(g.end-g.start), recipe.Int(madvCollapse)).Try()
	}
	s.group = region{}
}

// vdsoOf returns where the captured process had its vdso and the data of that, in one piece.
func vdsoOf(vmas []*vma.VmaEntry) (region, error) {
	var parts []region
	for _, v := range vmas {
		if v.GetStatus()&(criu.VMAVdso|criu.VMAVvar) != 0 {
			parts = append(parts, region{v.GetStart(), v.GetEnd()})
		}
	}
	return onePiece(parts)
}

func onePiece(parts []region) (region, error) {
	if len(parts) == 0 {
		return region{}, fmt.Errorf("there is no vdso")
	}
	slices.SortFunc(parts, func(a, b region) int { return int(int64(a.start - b.start)) })
	for i, p := range parts[1:] {
		if p.start != parts[i].end {
			return region{}, fmt.Errorf("the vdso is in pieces")
		}
	}
	return region{parts[0].start, parts[len(parts)-1].end}, nil
}

// moveVdso puts the parked vdso where the captured process had its own, which must be the same.
func (c *compiler) moveVdso(r *recipe.Recipe, t *criu.Task, s surroundings) {
	to, err := vdsoOf(t.Space.GetVmas())
	if err != nil {
		c.refuse("%v", err)
		return
	}
	if len(s.vdso) == 0 { // nobody builds it
		return
	}
	from := region{s.vdso[0].start, s.vdso[len(s.vdso)-1].end}
	if to.end-to.start != from.end-from.start {
		c.refuse("the vdso of the capturing kernel has %d bytes and that of this one %d", to.end-to.start, from.end-from.start)
		return
	}
	parked := uint64(home{}.park(s.end))
	for _, p := range c.tree {
		c.about(p, func() { c.compareVdso(p.Task, to.end-to.start) })
	}
	for _, v := range s.vdso {
		r.Call("move the vdso", recipe.Mremap, recipe.Int(parked+v.start-from.start), recipe.Int(v.end-v.start), recipe.Int(v.end-v.start),
			recipe.Int(mremapMayMove|mremapFixed), recipe.Int(to.start+v.start-from.start))
	}
}

// compareVdso refuses a snapshot whose vdso is not this kernel's: the process has the addresses of its functions. The code
// is at the end, and stored; the data before it is not.
func (c *compiler) compareVdso(t *criu.Task, size uint64) {
	vdso, err := vdsoOf(t.Space.GetVmas())
	if err != nil || vdso.end-vdso.start != size {
		c.refuse("it has no vdso, or another one than the first process: %v", err)
		return
	}
	code := uint64(len(c.host.vdsoCode))
	var compared uint64
	for _, p := range t.Pages {
		from, to := max(p.Start, vdso.end-code), min(p.End, vdso.end)
		if from >= to {
			continue
		}
		b, err := c.images.Bytes(p.File, p.Offset+int64(from-p.Start), int64(to-from))
		if err != nil || !bytes.Equal(b, c.host.vdsoCode[from-(vdso.end-code):to-(vdso.end-code)]) {
			c.refuse("the vdso of the capturing kernel is another one than this kernel's")
			return
		}
		compared += to - from
	}
	if kernel, err := sys.KernelRelease(); compared < code && (err != nil || kernel != c.config.Kernel) {
		c.refuse("the snapshot is of kernel %s, and its vdso was not stored", c.config.Kernel)
	}
}

const (
	prSetMM    = 35
	prSetMMMap = 14
)

// mmMap is the kernel's struct prctl_mm_map.
type mmMap struct {
	StartCode, EndCode, StartData, EndData, StartBrk, Brk, StartStack, ArgStart, ArgEnd, EnvStart, EnvEnd, Auxv uint64
	AuxvSize, ExeFD                                                                                             uint32
}

// describeSpace tells the kernel what is where: the heap, the arguments, the program.
func (c *compiler) describeSpace(r *recipe.Recipe, t *criu.Task, exe int) {
	m := t.Space
	auxv := m.GetMmSavedAuxv()
	at := r.Data().Put(mmMap{
		m.GetMmStartCode(), m.GetMmEndCode(), m.GetMmStartData(), m.GetMmEndData(), m.GetMmStartBrk(), m.GetMmBrk(), m.GetMmStartStack(),
		m.GetMmArgStart(), m.GetMmArgEnd(), m.GetMmEnvStart(), m.GetMmEnvEnd(), uint64(r.Data().Put(auxv)), uint32(8 * len(auxv)), uint32(exe),
	})
	r.Call("describe the address space", recipe.Prctl, recipe.Int(prSetMM), recipe.Int(prSetMMMap), recipe.At(at), recipe.Int(104), recipe.Int(0))
}

package template

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// A fork copies an entry for each page, and counts the page's users, one by one; of pages that lie side by side in a large
// one it does so for all at once, and so does the end of a process. Where a mapping ends inside of a stretch of 2 MiB, or is
// smaller, the kernel makes no large page for it. So memory of that kind is filled at another place, at the same distance
// from a multiple of 2 MiB, where the large pages may be whole, and then moved to where it belongs: the pages remain
// parts of large ones. What of those is left over is given back; the kernel takes it when it is short of memory.

// dense is the memory of a process that is filled elsewhere.
type dense struct {
	blocks []block           // whole stretches of 2 MiB
	to     map[int]uint64    // by the index of a mapping: where it is filled
	stored map[uint64]uint64 // by stretch: how many pages are stored in it
	vmas   []*vma.VmaEntry
}

// block is memory in which mappings lie as they do in the process.
type block = region

const (
	// denseWorth is how many pages of a mapping must lie outside of its own whole stretches for it to be filled elsewhere.
	denseWorth = 32
	// denseFull is how many pages of a stretch that is not all of one mapping must be stored for it to become a huge page.
	denseFull = 256

	protReadWrite = protRead | protWrite
)

// layDense chooses what is filled elsewhere, from an address on and below limit.
func layDense(vmas []*vma.VmaEntry, stored [][]criu.PageRun, from, limit uint64) *dense {
	d := &dense{to: make(map[int]uint64), stored: make(map[uint64]uint64), vmas: vmas}
	cursor := roundTo(from, hugePage)
	last := region{} // of the process, the mapping before; they are ascending
	var delta uint64
	for i, v := range vmas {
		if !densely(v, stored[i]) {
			continue
		}
		if last.end == 0 || v.GetStart()/hugePage > (last.end-1)/hugePage { // in another stretch than the one before
			delta = cursor - v.GetStart()/hugePage*hugePage
		}
		end := roundTo(v.GetEnd()+delta, hugePage)
		if end > limit || end < cursor || v.GetStart() < last.end {
			break
		}
		d.to[i] = v.GetStart() + delta
		d.blocks = append(d.blocks, block{(v.GetStart() + delta) / hugePage * hugePage, end})
		for _, run := range stored[i] {
			for at := run.Start + delta; at < run.End+delta; {
				next := min(run.End+delta, (at/hugePage+1)*hugePage)
				d.stored[at/hugePage*hugePage] += (next - at) / pageSize
				at = next
			}
		}
		cursor, last = end, region{v.GetStart(), v.GetEnd()}
	}
	return d
}

// densely says whether a mapping is worth being filled elsewhere, and comes out as any other there.
func densely(v *vma.VmaEntry, stored []criu.PageRun) bool {
	plain := v.GetFlags()&mapKnown&^mapAnonymous == mapPrivate && v.GetStatus()&criu.VMAAnonPrivate != 0
	if !private(v) || !plain || v.GetMadv()>>15&1 == 1 { // NOHUGEPAGE
		return false
	}
	first, last := roundTo(v.GetStart(), hugePage), v.GetEnd()/hugePage*hugePage
	outside := uint64(0)
	for _, run := range stored {
		inside := uint64(0)
		if from, to := max(run.Start, first), min(run.End, last); from < to {
			inside = to - from
		}
		outside += (run.End - run.Start - inside) / pageSize
	}
	return outside >= denseWorth
}

// open makes the memory.
func (d *dense) open(r *recipe.Recipe) {
	var made uint64 // up to here
	for _, b := range d.blocks {
		if start := max(b.start, made); start < b.end {
			r.Call("memory to be filled", recipe.Mmap, recipe.Int(start), recipe.Int(b.end-start), recipe.Int(protReadWrite),
				recipe.Int(mapPrivate|mapAnonymous|mapFixed|mapNoReplace), recipe.Int(-1), recipe.Int(0))
			made = b.end
		}
	}
	var huge stretches
	made = 0
	for _, b := range d.blocks {
		for at := max(b.start, made); at < b.end; at += hugePage {
			if d.stored[at] >= denseFull || d.stored[at] >= collapsed && d.whole(at) {
				huge.add(r, at)
			}
		}
		made = b.end
	}
	huge.end(r)
}

// whole says whether a stretch is all of one mapping.
func (d *dense) whole(at uint64) bool {
	for i, to := range d.to {
		if to <= at && at+hugePage <= to+d.vmas[i].GetEnd()-d.vmas[i].GetStart() {
			return true
		}
	}
	return false
}

// settle moves everything to where it belongs, for which at says where in the template that is.
func (d *dense) settle(r *recipe.Recipe, at func(uint64) uint64) {
	for i, v := range d.vmas {
		from, ok := d.to[i]
		if !ok {
			continue
		}
		what, length := fmt.Sprintf(" %x-%x", v.GetStart(), v.GetEnd()), v.GetEnd()-v.GetStart()
		r.Call("move"+what, recipe.Mremap, recipe.Int(from), recipe.Int(length), recipe.Int(length), recipe.Int(mremapMayMove|mremapFixed),
			recipe.Int(at(v.GetStart())))
		if v.GetProt() != protReadWrite {
			r.Call("protect"+what, recipe.Mprotect, recipe.Int(at(v.GetStart())), recipe.Int(length), recipe.Int(v.GetProt()))
		}
	}
	for _, b := range d.blocks {
		r.Call("what is left over", recipe.Munmap, recipe.Int(b.start), recipe.Int(b.end-b.start))
	}
}

func roundTo(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }

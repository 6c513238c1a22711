package template

import (
	"encoding/binary"
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// aioMost is how many requests a context may be for: more than fs.aio-max-nr lets all contexts of a host have by default.
const aioMost = 1 << 16

// ring returns what the images say of a context of asynchronous I/O.
func ring(t *criu.Task, v *vma.VmaEntry) *mm.AioRingEntry {
	for _, a := range t.Space.GetAios() {
		if a.GetId() == v.GetStart() {
			return a
		}
	}
	return nil
}

// cannotRing says why a context of asynchronous I/O cannot be made again; nothing if it can: one that nothing has come from
// yet. Servers make them beforehand.
func (c *compiler) cannotRing(t *criu.Task, v *vma.VmaEntry) string {
	const what = "a context of asynchronous I/O"
	a := ring(t, v)
	// The kernel makes a ring for four events of each processor that there could be, if that is more than was asked for: no
	// other host's would have this size.
	if a != nil && uint64(a.GetNrReq()) < 4*c.host.processors {
		return what + " that is smaller than those of this host"
	}
	if a == nil || uint64(a.GetRingLen()) != v.GetEnd()-v.GetStart() || a.GetNrReq() == 0 || a.GetNrReq() > aioMost {
		return what + " that the images say too little of"
	}
	for _, p := range t.Pages {
		if p.Start > v.GetStart() || p.End <= v.GetStart() {
			continue
		}
		// The head is four numbers: an id, the size, and where it is read and written next.
		head, err := c.images.Bytes(p.File, p.Offset+int64(v.GetStart()-p.Start), 16)
		if err == nil && binary.LittleEndian.Uint64(head[8:]) == 0 {
			return ""
		}
		return what + " that has been used"
	}
	return what + " that was not stored"
}

// mapRing makes a context of asynchronous I/O and moves it to where it was, which is what it is known by.
func (c *compiler) mapRing(r *recipe.Recipe, t *criu.Task, v *vma.VmaEntry) {
	a := ring(t, v)
	if a == nil {
		return // refused already
	}
	what := fmt.Sprintf("context of asynchronous I/O at %x", v.GetStart())
	at, length := r.Data().Space(8), recipe.Int(v.GetEnd()-v.GetStart())
	r.Call(what, recipe.IoSetup, recipe.Int(a.GetNrReq()), recipe.At(at))
	r.Call(what, recipe.Mremap, recipe.Load(at), length, length, recipe.Int(mremapMayMove|mremapFixed), recipe.Int(v.GetStart()))
}

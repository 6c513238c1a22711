package criu

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
)

// flagLazy marks pages that a restore with Lazy leaves to the pager. CRIU sets it in every dump.
const flagLazy = 1 << 1

// PageRun is a stretch of a process's memory that lies in one piece in a pages file.
type PageRun struct {
	Start, End uint64
	File       string // in the images directory
	Offset     int64
	Wiped      bool // a child of a fork gets zeros instead (MADV_WIPEONFORK)
}

// wipedOnFork is MADV_WIPEONFORK in a mapping's set of advice.
const wipedOnFork = 1 << 18

// LazyPages returns, by process id in its own pid namespace, the memory that a restore with Lazy leaves to the pager.
// Images that continue a parent dump have none: CRIU would leave the parent's pages to the pager as well.
func (im *Images) LazyPages() (map[int][]PageRun, error) {
	out := make(map[int][]PageRun)
	for _, pid := range im.pids() {
		p, err := im.pagemap(pid)
		if err != nil {
			return nil, err
		}
		space, err := im.mm(pid)
		if err != nil {
			return nil, err
		}
		var wiped []span
		for _, v := range space.GetVmas() {
			if v.GetMadv()&wipedOnFork != 0 {
				wiped = append(wiped, span{v.GetStart(), v.GetEnd()})
			}
		}
		for _, r := range p.runs {
			switch {
			case r.flags&flagLazy == 0:
			case r.flags&flagParent != 0:
				return nil, corrupt(filepath.Join(im.dir, fmt.Sprintf("pagemap-%d.img", pid)), "continues a parent dump")
			case r.present():
				out[int(pid)] = append(out[int(pid)], pieces(r, pagesName(p.pagesID), wiped)...)
			}
		}
	}
	return out, nil
}

// pieces splits a run so that each piece lies in the spans, which ascend, or outside of them.
func pieces(r run, file string, wiped []span) (out []PageRun) {
	add := func(end uint64, in bool) {
		if r.addr < end {
			out = append(out, PageRun{r.addr, end, file, r.offset, in})
			r = run{addr: end, pages: (r.end() - end) / pageSize, offset: r.offset + int64(end-r.addr)}
		}
	}
	for _, w := range wiped {
		add(min(w.start, r.end()), false)
		add(min(w.end, r.end()), true)
	}
	add(r.end(), false)
	return out
}

// DiesWithParent says whether the root task, once restored, gets SIGKILL when the thread that started CRIU ends.
func (im *Images) DiesWithParent() (bool, error) {
	core, err := im.core(im.tree[0].GetPid())
	if err != nil {
		return false, err
	}
	return core.GetThreadCore().GetPdeathSig() == uint32(syscall.SIGKILL), nil
}

// SetDiesWithParent rewrites the image of the root task so that DiesWithParent is true. A root task that has asked for
// another signal itself is left alone. The image is replaced atomically.
func (im *Images) SetDiesWithParent() error {
	return im.rewriteCore(im.tree[0].GetPid(), func(core *criu_core.CoreEntry) (bool, error) {
		if core.ThreadCore == nil {
			return false, errors.New("has no thread")
		}
		if core.ThreadCore.GetPdeathSig() != 0 {
			return false, nil
		}
		core.ThreadCore.PdeathSig = new(uint32(syscall.SIGKILL))
		return true, nil
	})
}

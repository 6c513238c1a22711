package template

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

const (
	pageSize = 4096
	// taskEnd is the end of the address space of a process on amd64 with page tables of four levels, with its last page,
	// which no process gets.
	taskEnd = 0x7ffffffff000

	codeRoom  = 2 * pageSize  // for the stub's code
	maxFrames = 64 << 20      // of the signal frames of all threads
	parkRoom  = 16 * pageSize // for the vdso and its data while memory is built
	stackRoom = 8 << 10       // of the stub
	// threadStack is the stack on which a thread of a clone runs its recipe.
	threadStack = 2 << 10
)

// home is where the stub lives: its code, the signal frames, and then everything that a clone gives up, which begins
// with the control block. Recipes and their data follow as they grow.
type home struct {
	at      recipe.Addr
	frames  int // bytes
	scratch recipe.Addr
}

// findHome returns the middle of the largest hole between the mappings, far from where the kernel or an allocator puts
// the next one.
func findHome(vmas []*vma.VmaEntry, threads int, l xsaveLayout) (home, error) {
	frames := roundUp(threads * l.stride())
	if frames > maxFrames {
		return home{}, fmt.Errorf("%d threads", threads)
	}
	sorted := slices.SortedFunc(slices.Values(vmas), func(a, b *vma.VmaEntry) int { return cmp.Compare(a.GetStart(), b.GetStart()) })
	var best, at, last uint64
	last = 1 << 30
	for _, v := range append(sorted, &vma.VmaEntry{Start: new(uint64(taskEnd)), End: new(uint64(taskEnd))}) {
		if start := min(v.GetStart(), taskEnd); start > last && start-last > best {
			best, at = start-last, last+(start-last)/2
		}
		last = max(last, v.GetEnd())
	}
	if best < 1<<36 {
		return home{}, errors.New("the address space has no large hole")
	}
	h := home{at: recipe.Addr(at &^ (1<<30 - 1)), frames: frames}
	h.scratch = h.at + codeRoom + recipe.Addr(frames)
	return h, nil
}

// park is where the vdso waits: beyond all that lies at home.
func (h home) park(end recipe.Addr) recipe.Addr { return end + 1<<20 }

func roundUp[T ~int | ~uint64](n T) T { return (n + pageSize - 1) &^ (pageSize - 1) }

package pager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Run is a stretch of a task's memory that lies in one piece in a file of pages. Start and End are multiples of the
// page size.
type Run struct {
	Start, End uint64
	File       string // name in the images directory
	Offset     int64
	Wiped      bool // a child of a fork gets zeros (MADV_WIPEONFORK)
}

// Image is the memory of a snapshot's tasks, mapped once and shared by all clones.
type Image struct {
	tasks map[int]segments
	files [][]byte

	mu      sync.Mutex
	working map[touch]bool
	order   []touch
}

// touch is a window of a task's memory that a clone touched early.
type touch struct {
	task int
	addr uint64
}

// Open maps the page files in dir. runs holds, for each task by its id in its own pid namespace, what is to be served.
func Open(dir string, runs map[int][]Run) (*Image, error) {
	im := &Image{tasks: make(map[int]segments), working: make(map[touch]bool)}
	index := make(map[string]int)
	for task, rs := range runs {
		for _, r := range rs {
			i, ok := index[r.File]
			if !ok {
				b, err := mapFile(filepath.Join(dir, r.File))
				if err != nil {
					return nil, errors.Join(err, im.Close())
				}
				i = len(im.files)
				im.files, index[r.File] = append(im.files, b), i
			}
			if r.End <= r.Start || r.Offset < 0 || uint64(r.Offset)+(r.End-r.Start) > uint64(len(im.files[i])) {
				return nil, errors.Join(fmt.Errorf("%s: pages %#x-%#x at %d lie outside of it", r.File, r.Start, r.End, r.Offset), im.Close())
			}
			im.tasks[task] = append(im.tasks[task], segment{start: r.Start, end: r.End, data: im.files[i][r.Offset:], wiped: r.Wiped})
		}
		slices.SortFunc(im.tasks[task], bySegmentStart)
	}
	return im, nil
}

func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sys.MapFile(f)
}

// Close unmaps the files. No session may be left.
func (im *Image) Close() error {
	var errs []error
	for _, b := range im.files {
		errs = append(errs, sys.UnmapFile(b))
	}
	im.files = nil
	return errors.Join(errs...)
}

// touched records that a clone needed a window of memory in its first moments.
func (im *Image) touched(t touch) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if !im.working[t] {
		im.working[t] = true
		im.order = append(im.order, t)
	}
}

// workingSet returns the windows of a task's memory that clones needed early, in the order of their first use.
func (im *Image) workingSet(task int) []uint64 {
	im.mu.Lock()
	defer im.mu.Unlock()
	var addrs []uint64
	for _, t := range im.order {
		if t.task == task {
			addrs = append(addrs, t.addr)
		}
	}
	return addrs
}

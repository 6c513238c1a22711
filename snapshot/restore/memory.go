package restore

import (
	"context"
	"os"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/pager"
)

// memory prepares to serve the clone's memory while it runs, where the snapshot allows it. Elsewhere CRIU reads all of
// it before the clone's first instruction.
func (s *session) memory(context.Context) error {
	if err := os.Mkdir(s.work, 0o700); err != nil {
		return err
	}
	if !s.Lazy {
		return nil
	}
	p, err := s.pager(s.r.Images)
	if err != nil || p == nil {
		return err
	}
	s.out.Memory, err = p.Serve(s.work)
	return err
}

func (s *session) closeMemory(context.Context) error {
	if s.out.Memory == nil {
		return nil
	}
	return s.out.Memory.Close()
}

// pager returns the pager of a snapshot, nil where its root task would outlive us: its images must say that it does not.
func (e *Engine) pager(images string) (*pager.Pager, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, known := e.pagers[images]; known {
		return p, nil
	}
	im, err := criu.Open(images)
	if err != nil {
		return nil, err
	}
	p, err := newPager(images, im, e.Guard)
	if err != nil {
		return nil, err
	}
	if e.pagers == nil {
		e.pagers = make(map[string]*pager.Pager)
	}
	e.pagers[images] = p
	return p, nil
}

func newPager(images string, im *criu.Images, guard *sys.Guard) (*pager.Pager, error) {
	dies, err := im.DiesWithParent()
	if err != nil || !dies {
		return nil, err
	}
	pages, err := im.LazyPages()
	if err != nil {
		return nil, err
	}
	runs := make(map[int][]pager.Run, len(pages))
	for task, list := range pages {
		for _, r := range list {
			runs[task] = append(runs[task], pager.Run(r))
		}
	}
	memory, err := pager.Open(images, runs)
	if err != nil {
		return nil, err
	}
	return pager.New(memory, guard), nil
}

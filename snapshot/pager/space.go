package pager

import (
	"errors"
	"slices"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

const (
	pageSize = 4096
	// window is how much is put at once around a page that was touched: neighbours are usually wanted next, and one
	// system call for sixteen pages costs little more than one for a page.
	window = 16 * pageSize
	// fillChunk bounds how long a touched page waits behind the background fill, about 60 µs.
	fillChunk = 64 * pageSize
	// early is how long after the end of its restore a clone's faults count as the working set.
	early = time.Second
	// patience is how long a space that may not fill waits before it asks again.
	patience = time.Millisecond
)

// space serves one address space. Only its own goroutine touches it.
type space struct {
	session *Session
	task    int // 0 for a child that was forked later
	u       *sys.Userfault
	missing segments
	faults  []uint64 // touched, not yet served
	working []uint64 // windows to fill first
}

// serve runs until nothing is missing, the process is gone, or the session is closed.
func (s *space) serve() error {
	defer s.u.Close()
	var wait time.Duration
	for {
		events, err := s.u.Events(wait)
		if err != nil {
			return err
		}
		for _, e := range events {
			s.happened(e)
		}
		wait = 0
		err = s.answer()
		if err == nil && len(events) == 0 {
			var done, did bool
			if done, did, err = s.fill(); done {
				return nil
			} else if !did {
				wait = patience
			}
		}
		switch {
		case errors.Is(err, sys.ErrProcessGone):
			return nil
		case err != nil && !errors.Is(err, sys.ErrMemoryChanged):
			return err
		}
	}
}

// happened takes note of an event. The process goes on from an event other than a fault as soon as it has been read, so
// everything that it implies is done here, before anything is put into the memory again.
func (s *space) happened(e sys.UserfaultEvent) {
	switch e.Kind {
	case sys.UserfaultMissing:
		s.faults = append(s.faults, e.Start&^(pageSize-1))
	case sys.UserfaultFork:
		child := &space{session: s.session, u: e.Child, missing: slices.Clone(s.missing)}
		s.session.run(child)
	case sys.UserfaultRemap:
		s.missing.move(e.Start, e.End, e.To)
	case sys.UserfaultRemove, sys.UserfaultUnmap:
		s.missing.cut(e.Start, e.End)
	}
}

// answer serves the pages that were touched. It stops with ErrMemoryChanged when events must be read first.
func (s *space) answer() error {
	for len(s.faults) > 0 {
		addr := s.faults[0]
		start := addr &^ (window - 1)
		if s.task != 0 && s.session.isEarly() {
			s.session.pager.image.touched(touch{s.task, start})
		}
		if err := s.copy(s.missing.cut(start, start+window)); err != nil {
			return err
		}
		// A page that the snapshot does not have is one of zeros. One that is there by now needs only the wake-up.
		switch err := s.u.Zero(addr, pageSize); {
		case errors.Is(err, sys.ErrPagePresent):
			if err := s.u.Wake(addr, pageSize); err != nil {
				return err
			}
		case err != nil && !errors.Is(err, sys.ErrAddressGone):
			return err
		}
		s.faults = s.faults[1:]
	}
	return nil
}

// fill puts the next piece of what is missing: the working set first, the rest when others do not need the processor.
// It says whether nothing is missing any more, and whether it did something.
func (s *space) fill() (done, did bool, err error) {
	if !s.session.isRestored() {
		return false, false, nil
	}
	for len(s.working) > 0 {
		start := s.working[0]
		s.working = s.working[1:]
		if got := s.missing.cut(start, start+window); len(got) > 0 {
			return false, true, s.copy(got)
		}
	}
	if len(s.missing) == 0 {
		return true, false, nil
	}
	if !s.session.mayFill() {
		return false, false, nil
	}
	select {
	case s.session.pager.slots <- struct{}{}:
		defer func() { <-s.session.pager.slots }()
	default:
		return false, false, nil
	}
	start := s.missing[0].start
	return false, true, s.copy(s.missing.cut(start, start+fillChunk))
}

// copy puts segments into the memory. What could not be put because the memory is being changed is missing again.
func (s *space) copy(todo segments) error {
	for i, seg := range todo {
		rest, err := s.put(seg)
		if err != nil {
			s.missing.put(append(segments{rest}, todo[i+1:]...))
			return err
		}
	}
	return nil
}

// put puts one segment into the memory and returns what it did not come to.
func (s *space) put(seg segment) (rest segment, err error) {
	most := seg.end - seg.start
	for seg.start < seg.end {
		piece := seg.bytes()[:min(most, seg.end-seg.start)]
		n, err := s.u.Copy(seg.start, piece)
		switch {
		case err == nil || n > 0:
		case errors.Is(err, sys.ErrAddressGone) && len(piece) > pageSize:
			// The kernel takes no piece that reaches over the end of a mapping.
			most = max(uint64(len(piece))/2&^(pageSize-1), pageSize)
			continue
		case errors.Is(err, sys.ErrPagePresent), errors.Is(err, sys.ErrAddressGone):
			// CRIU put the page there itself, as it does with stacks, or restored the whole mapping.
			n = pageSize
		default:
			return seg, err
		}
		seg = segment{seg.start + uint64(n), seg.end, seg.data[n:]}
		most = seg.end - seg.start
	}
	return seg, nil
}

package pager

import (
	"errors"
	"fmt"
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
	// A space that may not fill asks again after a while: soon as long as its restore goes on, because its working set is
	// wanted then, and later when others come first. A page that is touched is served at once in either case.
	restoring = time.Millisecond
	patience  = 20 * time.Millisecond
	// yielding is how long the background fill makes way for the restores of others.
	yielding = 30 * time.Second
	// turn is how long a thread whose event has been read is given to go on, before another look at the memory.
	turn = 50 * time.Microsecond
)

// space serves one address space. Only its own goroutine touches it.
type space struct {
	session *Session
	task    int // 0 for a child that was forked later
	u       *sys.Userfault
	owed    owed
	faults  []uint64 // touched, not yet served
	working []uint64 // windows to fill first
	born    []*space // children whose claims depend on events of ours that are still to come
}

// serve runs until nothing is missing, the process is gone, or the session is closed.
func (s *space) serve() error {
	defer s.letGo()
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
		if err = s.settle(); err == nil {
			err = s.answer()
		}
		if err == nil && len(events) == 0 {
			var done, did bool
			if done, did, err = s.fill(); done {
				return nil
			} else if !did {
				wait = restoring
				if s.session.isRestored() {
					wait = patience
				}
			}
		}
		switch {
		case errors.Is(err, sys.ErrProcessGone):
			return nil
		case errors.Is(err, sys.ErrMemoryChanged) && len(events) == 0:
			wait = turn
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
		s.born = append(s.born, &space{session: s.session, u: e.Child, owed: s.owed.forked()})
	case sys.UserfaultRemap:
		for _, child := range s.born {
			child.owed.avoid(e.To, e.To+(e.End-e.Start))
		}
		s.owed.moved(e.Start, e.End, e.To)
	case sys.UserfaultRemove:
		s.owed.removed(e.Start, e.End)
	case sys.UserfaultUnmap:
		s.owed.unmapped(e.Start, e.End)
	}
}

// settle puts memory that was moved to where it is now. Until that is done no other page may be put: one that seems to be
// of zeros may be one that was moved. It stops with ErrMemoryChanged when events must be read first.
func (s *space) settle() error {
	for len(s.owed.claims) > 0 {
		c := s.owed.claims[0]
		s.owed.claims = s.owed.claims[1:]
		n, err := s.tryPlaces(c)
		if n < c.size() {
			s.owed.claims = append(s.owed.claims, c.split(n))
		}
		if err != nil {
			return err
		}
	}
	s.owed.settled()
	s.letGo()
	return nil
}

// letGo begins to serve the children that were born.
func (s *space) letGo() {
	for _, child := range s.born {
		s.session.run(child)
	}
	s.born = nil
}

// tryPlaces puts a claim where it belongs and returns how much of it is done with.
func (s *space) tryPlaces(c claim) (done uint64, err error) {
	for done < c.size() {
		n := uint64(pageSize)
		for _, p := range c.places {
			if p.left {
				continue
			}
			n, err = s.put(c.from(c.start + done).at(p.addr + done))
			if err == nil || !elsewhere(err) {
				break
			}
			n = pageSize
		}
		if err != nil && !elsewhere(err) {
			return done, err
		}
		done += n
	}
	return done, nil
}

// elsewhere says whether a claimed page, which is missing, cannot be where it was tried.
func elsewhere(err error) bool {
	return errors.Is(err, sys.ErrAddressGone) || errors.Is(err, sys.ErrPagePresent)
}

// answer serves the pages that were touched. It stops with ErrMemoryChanged when events must be read first.
func (s *space) answer() error {
	for len(s.faults) > 0 {
		addr := s.faults[0]
		start := addr &^ (window - 1)
		if s.task != 0 && s.session.isEarly() {
			s.session.pager.image.touched(touch{s.task, start})
		}
		if err := s.copy(s.owed.missing.cut(start, start+window)); err != nil {
			return err
		}
		// A page that the snapshot does not have is one of zeros. One that is there by now needs only the wake-up, and
		// so does a thread that touched what is no longer mapped: it gets its signal.
		switch err := s.gone(s.u.Zero(addr, pageSize)); {
		case errors.Is(err, sys.ErrPagePresent), errors.Is(err, sys.ErrAddressGone):
			if err := s.u.Wake(addr, pageSize); err != nil {
				return err
			}
		case err != nil:
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
		if got := s.owed.missing.cut(start, start+window); len(got) > 0 {
			return false, true, s.copy(got)
		}
	}
	if s.owed.nothing() {
		// A fork may be under way whose child misses what this process has since unmapped.
		changing, err := s.u.Changing()
		return !changing && err == nil, false, err
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
	start := s.owed.missing[0].start
	return false, true, s.copy(s.owed.missing.cut(start, start+fillChunk))
}

// copy puts segments into the memory. What could not be put because the memory is being changed is missing again.
func (s *space) copy(todo segments) error {
	for i, seg := range todo {
		for seg.start < seg.end {
			n, err := s.put(seg)
			if errors.Is(err, sys.ErrPagePresent) || errors.Is(err, sys.ErrAddressGone) && s.task == 0 {
				n, err = pageSize, nil // not all memory is inherited
			}
			if err != nil {
				s.owed.missing.put(append(segments{seg}, todo[i+1:]...))
				if errors.Is(err, sys.ErrAddressGone) {
					err = fmt.Errorf("task %d: page %#x: %w", s.task, seg.start, err)
				}
				return err
			}
			seg = seg.from(seg.start + n)
		}
	}
	return nil
}

// put puts as much of the segment's beginning as the kernel takes at once, and returns how much that is; nothing with an
// error.
func (s *space) put(seg segment) (uint64, error) {
	for piece := seg.bytes()[:min(seg.size(), fillChunk)]; ; {
		n, err := s.u.Copy(seg.start, piece)
		switch err = s.gone(err); {
		case err == nil || n > 0:
			return uint64(n), nil
		case errors.Is(err, sys.ErrAddressGone) && len(piece) > pageSize:
			// The kernel takes no piece that reaches over the end of a mapping.
			piece = piece[:max(len(piece)/2&^(pageSize-1), pageSize)]
		default:
			return 0, err
		}
	}
}

// gone checks ErrAddressGone: what seems to be gone may just have been moved.
func (s *space) gone(err error) error {
	if !errors.Is(err, sys.ErrAddressGone) {
		return err
	}
	if changing, cerr := s.u.Changing(); changing || cerr != nil {
		return errors.Join(cerr, sys.ErrMemoryChanged)
	}
	return err
}

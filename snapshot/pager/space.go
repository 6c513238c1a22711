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
	// turns is how often at most we look at once whether the memory rests, about half a microsecond each.
	turns = 100
)

// space serves one address space. Only its own goroutine touches it.
type space struct {
	session *Session
	task    int // 0 for a child that was forked later
	u       *sys.Userfault
	owed    owed
	faults  []uint64 // touched, not yet served
	working []uint64 // windows to fill first
	born    []*space // children that were forked while events of ours were outstanding
}

// serve runs until nothing is missing, the process is gone, or the session is closed.
func (s *space) serve() error {
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
			// Its children may live. What their mother's threads did during a fork and did not live to report is not
			// known to anybody; it takes a kill at that instant.
			s.letGo()
			return nil
		case errors.Is(err, sys.ErrMemoryChanged) && len(events) == 0:
			wait = turn
		case err != nil && !errors.Is(err, sys.ErrMemoryChanged):
			return err
		}
	}
}

// close ends the service of the space, and of children that were not served yet.
func (s *space) close() {
	s.u.Close()
	for _, child := range s.born {
		child.u.Close()
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
		s.changed(func(o *owed) { o.moved(e.Start, e.End, e.To) })
	case sys.UserfaultRemove:
		s.owed.removed(e.Start, e.End)
	case sys.UserfaultUnmap:
		s.changed(func(o *owed) { o.unmapped(e.Start, e.End) })
	}
}

// changed notes an event that may have come before the forks of which we know already.
func (s *space) changed(note func(*owed)) {
	note(&s.owed)
	for _, child := range s.born {
		note(&child.owed)
	}
}

// settle finds out where memory is that was changed. Until that is known no page may be put: one that seems to be of
// zeros may be one that was moved. It stops with ErrMemoryChanged when events must be read first.
func (s *space) settle() error {
	if s.owed.certain() && len(s.born) == 0 {
		return nil
	}
	// A thread that goes on from its event lets the memory rest for an instant at least, before it changes it again.
	err := s.quiet()
	for range turns {
		if !errors.Is(err, sys.ErrMemoryChanged) {
			break
		}
		err = s.quiet()
	}
	if err != nil {
		return err
	}
	if doubt, err := s.owed.settle(s.u.Serves); err != nil {
		return err
	} else if doubt {
		s.session.doubtful()
	}
	s.letGo()
	return nil
}

// letGo begins to serve the children that were born.
func (s *space) letGo() {
	for _, child := range s.born {
		child.owed.bear()
		s.session.run(child)
	}
	s.born = nil
}

// answer serves the pages that were touched. It stops with ErrMemoryChanged when events must be read first.
func (s *space) answer() error {
	for len(s.faults) > 0 {
		addr := s.faults[0]
		start := addr &^ (window - 1)
		if s.task != 0 && s.session.isEarly() {
			s.session.pager.image.touched(touch{s.task, start})
		}
		if err := s.copy(s.owed.missing.take(start, start+window)); err != nil {
			return err
		}
		if len(s.owed.missing.cut(addr, addr+pageSize)) > 0 {
			return fmt.Errorf("task %d: page %#x: %w", s.task, addr, errDoubt)
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
	for len(s.working) > 0 && s.session.mayPrefetch() {
		start := s.working[0]
		s.working = s.working[1:]
		if got := s.owed.missing.take(start, start+window); len(got) > 0 {
			return false, true, s.copy(got)
		}
	}
	next, some := s.owed.missing.known()
	switch {
	case some:
	case len(s.owed.missing) > 0:
		// It stays missing; this only asks whether the process is still there.
		_, err := s.u.Serves(s.owed.missing[0].start)
		return false, false, err
	default:
		// A fork may be under way whose child misses what this process has since unmapped.
		err := s.quiet()
		return err == nil, false, err
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
	return false, true, s.copy(s.owed.missing.take(next.start, next.start+fillChunk))
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
	if qerr := s.quiet(); qerr != nil {
		return qerr
	}
	return err
}

// quiet returns ErrMemoryChanged while events are outstanding.
func (s *space) quiet() error {
	changing, err := s.u.Changing()
	if changing {
		return sys.ErrMemoryChanged
	}
	return err
}

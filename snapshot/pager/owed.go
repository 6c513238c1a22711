package pager

import (
	"errors"
	"slices"
)

// errDoubt says that it cannot be told what a page must hold.
var errDoubt = errors.New("threads changed the same addresses at the same time, and what is there now cannot be told")

// owed is what an address space has still to be given.
//
// The kernel reports changes of the memory in nearly the order in which they were made: a thread that has unmapped or
// moved memory lets go of the kernel's lock before it queues its event, and in between another thread's mremap may take
// the very addresses that became free and queue its event first. And memory that grows in place is not reported at all.
//
// So memory that was changed is only claimed to be at places until the kernel says that no event is outstanding; then
// the events of each place are counted. Two things are certain: whoever leaves a place by munmap, or by an mremap that
// leaves nothing behind, causes one unmapping there; and nobody changes memory whose arrival has not been read yet,
// because the thread that moved it waits for that. Where the count leaves more than one explanation the memory is in
// doubt, and nothing is put there, ever: whoever touches it must not go on. The tests look for a case that this does not
// cover, with a model of the kernel that reports changes in every order that is possible.
type owed struct {
	missing segments
	claims  []*claim
}

// claim is memory that was changed: the places where it was, the last one where it is, and where it may be.
type claim struct {
	segment
	places []place
	empty  bool // its content was thrown away
	// inherited: it was changed by the parent of this process, before the fork or after it.
	inherited bool
	odd       bool // inherited, and changed by the child since
}

// place is where claimed memory is or was.
type place struct {
	addr   uint64
	first  bool // it was here when no event was outstanding
	left   bool // it was moved on, to the next place
	torn   bool // it or other memory was moved away, or what was here before is not known
	taken  bool // other memory has arrived here since
	maybe  bool // other memory was moved here, or it was
	fresh  bool // it arrives by the event that is being handled
	before int  // how many unmappings of what was here before were outstanding when it arrived
	unmaps int  // how many were read since
}

// here says whether nothing says yet that it is not here any more.
func (p *place) here() bool { return !p.maybe && !p.left && p.unmaps <= p.before }

// expected is how many unmappings are read here at most, if all that was reported of this memory was meant for it.
func (p *place) expected() int {
	if p.left {
		return p.before + 1
	}
	return p.before
}

// moved notes that mremap has moved [start, end).
func (o *owed) moved(start, end, to uint64) {
	o.claim(start, end)
	o.claim(to, to+(end-start))
	o.cells(start, end, func(at uint64, list []found) {
		here := 0
		for _, f := range list {
			if f.place().here() {
				here++
			}
		}
		for _, f := range list {
			f.touch()
			p := f.place()
			// Where other memory has arrived, the mremap may have been one of that.
			sure := p.here() && here == 1 && !p.taken
			p.left = p.left || sure
			p.torn = p.torn || !sure
			f.claim.places = append(f.claim.places, place{addr: at - start + to, fresh: true, maybe: !sure})
		}
	})
	o.cells(to, to+(end-start), func(_ uint64, list []found) { arrive(list) })
}

// arrive notes that memory has arrived where the listed claims are or were; some of them are new there.
func arrive(list []found) {
	outstanding, unsure := 0, false
	for _, f := range list {
		if p := f.place(); !p.fresh && !p.maybe {
			p.taken = true
			outstanding = max(outstanding, p.before+1-p.unmaps)
			unsure = unsure || f.inherited
		}
	}
	for _, f := range list {
		if p := f.place(); p.fresh {
			p.fresh, p.before, p.torn = false, outstanding, unsure
		}
	}
}

// unmapped notes that [start, end) is gone, or was before other memory arrived there.
func (o *owed) unmapped(start, end uint64) {
	o.claim(start, end)
	o.cells(start, end, func(_ uint64, list []found) {
		for _, f := range list {
			f.touch()
			f.place().unmaps++
		}
	})
}

// removed notes that the content of [start, end) is thrown away. The kernel reports that before it does so.
func (o *owed) removed(start, end uint64) {
	o.claim(start, end)
	o.cells(start, end, func(_ uint64, list []found) {
		for _, f := range list {
			f.touch()
			if p := f.place(); p.here() && !p.taken {
				f.claim.empty = true
			}
		}
	})
}

// touch notes that an event concerns a claim.
func (c *claim) touch() { c.odd = c.odd || c.inherited }

// forked returns what the child of a fork is owed. Some memory is empty in a child. Until the parent is settled the
// child must be told of moved and unmapped memory as well, and it is born then.
func (o *owed) forked() owed {
	var child owed
	for _, s := range o.missing {
		if !s.wiped {
			child.missing = append(child.missing, s)
		}
	}
	for _, c := range o.claims {
		inherited := *c
		inherited.places, inherited.empty = slices.Clone(c.places), c.empty || c.wiped
		child.claims = append(child.claims, &inherited)
	}
	return child
}

// bear notes that all events of the parent have been read that may have come before the fork.
func (o *owed) bear() {
	for _, c := range o.claims {
		c.inherited = true
	}
}

// certain says whether it is known where all memory is.
func (o *owed) certain() bool { return len(o.claims) == 0 }

// settle decides where all memory is, at a moment when no event is outstanding; serves says whether memory is served at
// an address then. What is in doubt is missing and unknown from then on, and it says whether there is such memory. With
// an error nothing is decided.
func (o *owed) settle(serves func(addr uint64) (bool, error)) (doubt bool, err error) {
	var sure, unknown segments
	for _, c := range o.claims {
		at, doubtful := c.verdict()
		if !c.inherited && len(doubtful) == 0 && !c.unknown {
			for _, addr := range at {
				sure = append(sure, c.at(addr))
			}
			continue
		}
		maybe, err := c.served(doubtful, serves)
		if err != nil {
			return false, err
		}
		if len(maybe) > 0 {
			at = c.reachable()
		}
		there, err := c.served(at, serves)
		if err != nil {
			return false, err
		}
		if len(maybe) == 0 && len(there) == 1 && there[0].size() == c.size() && !c.unknown {
			sure = append(sure, there...)
		} else {
			unknown = append(unknown, there...)
		}
	}
	for _, s := range sure {
		if len(o.missing.cut(s.start, s.end)) > 0 {
			unknown = append(unknown, s)
		} else {
			o.missing.put(segments{s})
		}
	}
	for _, s := range unknown {
		s.unknown = true
		o.missing.replace(segments{s})
	}
	o.claims = nil
	return len(unknown) > 0, nil
}

// reachable returns where the claimed memory could be if nothing is known but which memory arrived last at a place.
func (c *claim) reachable() (addrs []uint64) {
	for _, p := range c.places {
		if !p.taken || c.inherited {
			addrs = append(addrs, p.addr)
		}
	}
	return addrs
}

// served returns what of the claimed memory would be served, at the addresses where it may be. All of it came and went
// at once, so that only what has grown since can be served in part: from its beginning, or from its end where a stack
// has grown.
func (c *claim) served(addrs []uint64, serves func(addr uint64) (bool, error)) (list segments, err error) {
	for _, addr := range addrs {
		last := addr + c.size() - pageSize
		first, err := serves(addr)
		if err == nil && !first {
			first, err = serves(last)
		}
		if err != nil {
			return nil, err
		}
		for page := addr; page <= last && first; page += pageSize {
			yes, err := serves(page)
			if err != nil {
				return nil, err
			}
			s := c.from(c.start + page - addr).to(c.start + page - addr + pageSize).at(page)
			if n := len(list); yes && n > 0 && list[n-1].end == s.start && s.start > addr {
				list[n-1].end = s.end
			} else if yes {
				list = append(list, s)
			}
		}
	}
	return list, nil
}

// verdict says where the claimed memory is when no event is outstanding: at the address, or nowhere, provided that no
// memory is served at the doubtful ones. What is inherited is at that of several addresses at which memory is served.
func (c *claim) verdict() (at, doubtful []uint64) {
	if c.inherited {
		return c.verdictInherited()
	}
	odd := false
	for _, p := range c.places {
		odd = odd || p.unmaps > p.expected() && p.left
		switch {
		case p.maybe:
			doubtful = append(doubtful, p.addr)
		case p.left:
			if !p.taken && (odd || c.empty || p.unmaps+p.before > 0) {
				doubtful = append(doubtful, p.addr)
			}
		case p.taken, p.first && p.unmaps > 0: // it was unmapped
		case odd || p.torn || p.unmaps > p.before:
			doubtful = append(doubtful, p.addr)
		case !c.empty:
			at = append(at, p.addr)
		}
	}
	return at, doubtful
}

func (c *claim) verdictInherited() (at, doubtful []uint64) {
	odd := c.odd || c.empty && len(c.places) > 1
	for _, p := range c.places {
		odd = odd || p.unmaps > p.expected() || p.torn || p.maybe || p.taken
		at = append(at, p.addr)
	}
	switch {
	case odd:
		return nil, at
	case c.empty:
		return nil, nil
	}
	return at, nil
}

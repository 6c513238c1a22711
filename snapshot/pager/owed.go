package pager

import "slices"

// owed is what an address space has still to be given.
//
// The kernel reports changes of the memory in nearly the order in which they were made: a thread that has unmapped or
// moved memory lets go of the kernel's lock before it queues its event, and in between another thread's mremap may take
// the very addresses that became free and queue its event first. (The unmapping of the place that mremap leaves is
// always an event of its own, and a late one.) So an event that seems to hit memory which has just been moved there may
// mean what was there before. What was moved is therefore only claimed to be where it should be, until the kernel says
// that no event is outstanding: then a copy to each place shows whether memory is there.
//
// One thing cannot be told apart: memory that is moved, is cut short by munmap or mremap, and grows again in place, all
// while events of other threads keep being outstanding. What has grown can then hold what was there before the cut, where
// mremap promises zeros; to realloc, which does all this, the content of such memory is undefined.
type owed struct {
	missing   segments
	claims    []claim
	displaced segments // was where claimed memory has moved to: its own event is still to come
}

// claim is memory that was moved. It is at the first of places where memory is served; when at none, it is gone.
type claim struct {
	places []place
	segment
}

// place is where claimed memory may be. When it has been moved on, it has left; but when the place was then reported as
// unmapped, the move may have been one of what was there before.
type place struct {
	addr uint64
	left bool
}

// moved notes that mremap has moved [start, end).
func (o *owed) moved(start, end, to uint64) {
	o.displace(to, to+(end-start))
	taken := o.displaced.cut(start, end)
	if len(taken) == 0 {
		o.each(start, end, func(c *claim, i int) {
			if !c.places[i].left {
				c.places[i].left = true
				c.places = append(c.places, place{addr: c.places[i].addr - start + to})
			}
		})
	}
	taken = append(taken, o.missing.cut(start, end)...)
	for _, s := range taken {
		o.claims = append(o.claims, claim{[]place{{addr: s.start - start + to}}, s})
	}
}

// displace makes room at [start, end), where memory has moved to, so that nothing can be there any more.
func (o *owed) displace(start, end uint64) {
	o.displaced.replace(o.missing.cut(start, end))
	o.each(start, end, func(c *claim, i int) {
		at := c.places[i]
		c.places = slices.Delete(c.places, i, i+1)
		if !at.left && !slices.ContainsFunc(c.places, func(p place) bool { return !p.left }) {
			o.displaced.replace(segments{c.at(at.addr)})
		}
	})
	o.dropHomeless()
}

// unmapped notes that [start, end) is gone, or was before claimed memory moved there.
func (o *owed) unmapped(start, end uint64) {
	o.missing.cut(start, end)
	o.displaced.cut(start, end)
	o.each(start, end, func(c *claim, i int) { c.places[i].left = false })
}

// removed notes that the content of [start, end) is thrown away. The kernel reports that before it does so: it is always
// in order.
func (o *owed) removed(start, end uint64) {
	o.missing.cut(start, end)
	o.each(start, end, func(c *claim, i int) {
		if !c.places[i].left {
			c.places = nil
		}
	})
	o.dropHomeless()
}

// avoid notes, for the child of a fork, that its parent's memory was moved to [start, end), before the fork or after it:
// what is claimed to be there or elsewhere is elsewhere.
func (o *owed) avoid(start, end uint64) {
	o.each(start, end, func(c *claim, i int) {
		if slices.ContainsFunc(c.places, func(p place) bool { return !p.left && p != c.places[i] }) {
			c.places = slices.Delete(c.places, i, i+1)
		}
	})
}

func (o *owed) dropHomeless() {
	o.claims = slices.DeleteFunc(o.claims, func(c claim) bool { return len(c.places) == 0 })
}

// forked returns what the child of a fork is owed. Some memory is empty in a child; the rest of what is not like the
// parent's is not there at all, which the copy will show.
func (o *owed) forked() owed {
	child := owed{missing: slices.Clone(o.missing)}
	child.missing = slices.DeleteFunc(child.missing, func(s segment) bool { return s.wiped })
	for _, c := range o.claims {
		if !c.wiped {
			child.claims = append(child.claims, claim{slices.Clone(c.places), c.segment})
		}
	}
	return child
}

// settled notes that all claims have been tried.
func (o *owed) settled() { o.claims, o.displaced = nil, nil }

func (o *owed) nothing() bool { return len(o.missing) == 0 && len(o.claims) == 0 }

// each calls f for every place of a claim in [start, end); claims are split so that each place lies there wholly or not.
func (o *owed) each(start, end uint64, f func(c *claim, i int)) {
	for i := 0; i < len(o.claims); i++ { // it grows
		for _, p := range o.claims[i].places {
			for _, edge := range []uint64{start, end} {
				if size := o.claims[i].size(); p.addr < edge && edge < p.addr+size {
					o.claims = append(o.claims, o.claims[i].split(edge-p.addr))
				}
			}
		}
	}
	for i := range o.claims {
		c := &o.claims[i]
		for k := len(c.places) - 1; k >= 0; k-- { // f may delete one or all, and append
			if k < len(c.places) && c.places[k].addr >= start && c.places[k].addr < end {
				f(c, k)
			}
		}
	}
}

// split shortens the claim to n bytes and returns the rest.
func (c *claim) split(n uint64) claim {
	rest := claim{slices.Clone(c.places), c.from(c.start + n)}
	for i := range rest.places {
		rest.places[i].addr += n
	}
	c.end = c.start + n
	return rest
}

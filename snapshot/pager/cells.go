package pager

import "slices"

// found is a claim, and which of its places was asked for.
type found struct {
	*claim
	index int
}

func (f found) place() *place { return &f.places[f.index] }

// claim makes claims of what is missing in [start, end).
func (o *owed) claim(start, end uint64) {
	for _, s := range o.missing.cut(start, end) {
		o.claims = append(o.claims, &claim{segment: s, places: []place{{addr: s.start, first: true}}})
	}
}

// cells splits claims so that their places in [start, end) are the same or apart, and calls f with the claims of each.
// What f appends to the places of a claim is not found any more.
func (o *owed) cells(start, end uint64, f func(start uint64, list []found)) {
	edges := o.align(start, end)
	at := make(map[uint64][]found)
	for _, c := range o.claims {
		for i, p := range c.places {
			if p.addr >= start && p.addr < end {
				at[p.addr] = append(at[p.addr], found{c, i})
			}
		}
	}
	for _, edge := range edges {
		if list := at[edge]; len(list) > 0 {
			f(edge, list)
		}
	}
}

// align splits claims at the edges of each other's places in [start, end), and returns these.
func (o *owed) align(start, end uint64) []uint64 {
	for {
		edges := []uint64{start, end}
		for _, c := range o.claims {
			for _, p := range c.places {
				if p.addr < end && p.addr+c.size() > start {
					edges = append(edges, max(start, p.addr), min(end, p.addr+c.size()))
				}
			}
		}
		slices.Sort(edges)
		edges = slices.Compact(edges)
		before := len(o.claims)
		for i := 0; i < len(o.claims); i++ { // it grows
			for _, p := range o.claims[i].places {
				o.splitAt(i, p.addr, edges)
			}
		}
		if len(o.claims) == before { // a claim that was split has new edges at its other places
			return edges
		}
	}
}

// splitAt splits a claim at those edges that its place at addr reaches over.
func (o *owed) splitAt(i int, addr uint64, edges []uint64) {
	c := o.claims[i]
	for _, edge := range edges {
		if addr < edge && edge < addr+c.size() {
			o.claims = append(o.claims, c.split(edge-addr))
			return // the rest follows with the rest
		}
	}
}

// split shortens the claim to n bytes and returns the rest.
func (c *claim) split(n uint64) *claim {
	rest := *c
	rest.segment, rest.places = c.from(c.start+n), slices.Clone(c.places)
	for i := range rest.places {
		rest.places[i].addr += n
	}
	c.end = c.start + n
	return &rest
}

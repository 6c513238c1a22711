package pager

import (
	"cmp"
	"slices"
	"sort"
)

// segment is memory that is still missing, and where its content is: data begins with the byte for start.
type segment struct {
	start, end uint64
	data       []byte
	wiped      bool // a child of a fork gets zeros instead
	unknown    bool // it may be this or something else: see owed
}

func bySegmentStart(a, b segment) int { return cmp.Compare(a.start, b.start) }

func (s segment) size() uint64  { return s.end - s.start }
func (s segment) bytes() []byte { return s.data[:s.size()] }

// from returns the segment without what lies below start.
func (s segment) from(start uint64) segment {
	s.start, s.data = start, s.data[start-s.start:]
	return s
}

// to returns the segment without what lies at end and above.
func (s segment) to(end uint64) segment {
	s.end = end
	return s
}

// at returns the segment at another address.
func (s segment) at(start uint64) segment {
	s.start, s.end = start, start+s.size()
	return s
}

// segments is what is missing in one address space, sorted and without overlaps.
type segments []segment

// cut takes [start, end) out and returns what of it was missing.
func (ss *segments) cut(start, end uint64) segments {
	list := *ss
	i := sort.Search(len(list), func(i int) bool { return list[i].end > start })
	j := i
	var taken, rest segments
	for ; j < len(list) && list[j].start < end; j++ {
		s := list[j]
		if s.start < start {
			rest = append(rest, s.to(start))
			s = s.from(start)
		}
		if s.end > end {
			rest = append(rest, s.from(end))
			s = s.to(end)
		}
		taken = append(taken, s)
	}
	*ss = slices.Replace(list, i, j, rest...)
	return taken
}

// take is cut for what is known; the rest stays.
func (ss *segments) take(start, end uint64) (known segments) {
	for _, s := range ss.cut(start, end) {
		if s.unknown {
			ss.put(segments{s})
		} else {
			known = append(known, s)
		}
	}
	return known
}

// known returns the first segment that is known, if any.
func (ss segments) known() (first segment, ok bool) {
	i := slices.IndexFunc(ss, func(s segment) bool { return !s.unknown })
	if i < 0 {
		return segment{}, false
	}
	return ss[i], true
}

// put adds segments that overlap nothing.
func (ss *segments) put(more segments) {
	for _, s := range more {
		i, _ := slices.BinarySearchFunc(*ss, s, bySegmentStart)
		*ss = slices.Insert(*ss, i, s)
	}
}

// replace adds segments in place of what is there.
func (ss *segments) replace(more segments) {
	for _, s := range more {
		ss.cut(s.start, s.end)
	}
	ss.put(more)
}

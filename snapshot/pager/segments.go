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
}

func bySegmentStart(a, b segment) int { return cmp.Compare(a.start, b.start) }

func (s segment) bytes() []byte { return s.data[:s.end-s.start] }

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
			rest = append(rest, segment{s.start, start, s.data})
			s = segment{start, s.end, s.data[start-s.start:]}
		}
		if s.end > end {
			rest = append(rest, segment{end, s.end, s.data[end-s.start:]})
			s.end = end
		}
		taken = append(taken, s)
	}
	*ss = slices.Replace(list, i, j, rest...)
	return taken
}

// put adds segments that overlap nothing.
func (ss *segments) put(more segments) {
	for _, s := range more {
		i, _ := slices.BinarySearchFunc(*ss, s, bySegmentStart)
		*ss = slices.Insert(*ss, i, s)
	}
}

// move shifts what is missing of [start, end) to to, as mremap moves memory.
func (ss *segments) move(start, end, to uint64) {
	moved := ss.cut(start, end)
	ss.cut(to, to+(end-start))
	for i := range moved {
		moved[i].start += to - start
		moved[i].end += to - start
	}
	ss.put(moved)
}

// bytes returns how much is missing.
func (ss segments) bytes() (n uint64) {
	for _, s := range ss {
		n += s.end - s.start
	}
	return n
}

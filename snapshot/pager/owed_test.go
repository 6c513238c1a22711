package pager

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const modelPages = 64

// model is memory as one byte a page: 0 is a page that is not missing. Pages are one byte long here.
type model [modelPages]byte

// flat writes segments as a model, and checks that they are sorted, not empty and without overlaps.
func flat(t *rapid.T, ss segments) (m model) {
	var end uint64
	for _, s := range ss {
		if s.start < end || s.end <= s.start {
			t.Fatalf("out of order: %#x-%#x behind %#x", s.start, s.end, end)
		}
		end = s.end
		copy(m[s.start:s.end], s.bytes())
	}
	return m
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + 1)
	}
	return b
}

// TestSegments compares cut, put and replace with a map of bytes.
func TestSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ss segments
		var want model
		data := content(200)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			start := rapid.IntRange(0, modelPages-1).Draw(t, "start")
			end := rapid.IntRange(start+1, modelPages).Draw(t, "end")
			from := rapid.IntRange(0, 100).Draw(t, "from")
			fresh := segment{start: uint64(start), end: uint64(end), data: data[from:]}
			switch rapid.SampledFrom([]string{"cut", "put", "replace"}).Draw(t, "step") {
			case "cut":
				taken := flat(t, ss.cut(uint64(start), uint64(end)))
				for i := range want {
					expect := byte(0)
					if i >= start && i < end {
						expect, want[i] = want[i], 0
					}
					if taken[i] != expect {
						t.Fatalf("cut %d-%d took %d at %d, want %d", start, end, taken[i], i, expect)
					}
				}
			case "put":
				if slices.ContainsFunc(want[start:end], func(b byte) bool { return b != 0 }) {
					continue
				}
				ss.put(segments{fresh})
				copy(want[start:end], data[from:])
			case "replace":
				ss.replace(segments{fresh})
				copy(want[start:end], data[from:])
			}
			if got := flat(t, ss); got != want {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
	})
}

// settle does what a space does with claims: each goes to the first place where there is memory that holds nothing yet.
func settle(o *owed, mapped *[modelPages]bool) {
	for _, c := range o.claims {
		for i := range c.size() {
			for _, p := range c.places {
				if at := p.addr + i; !p.left && mapped[at] {
					o.missing.replace(segments{c.from(c.start + i).to(c.start + i + 1).at(at)})
					break
				}
			}
		}
	}
	o.settled()
}

// TestOwedInOrder changes memory in random ways, each reported before the next, and settles now and then: what is owed is
// what a map of bytes says.
func TestOwedInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := content(modelPages)
		o := owed{missing: segments{{start: 0, end: 32, data: data}}}
		var want model
		var mapped [modelPages]bool
		copy(want[:32], data)
		for i := range 32 {
			mapped[i] = true
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			start := rapid.IntRange(0, modelPages-1).Draw(t, "start")
			n := rapid.IntRange(1, min(16, modelPages-start)).Draw(t, "n")
			a, b := uint64(start), uint64(start+n)
			switch rapid.SampledFrom([]string{"move", "unmap", "remove", "settle"}).Draw(t, "step") {
			case "move":
				to := rapid.IntRange(0, modelPages-n).Draw(t, "to")
				if slices.Contains(mapped[start:start+n], false) || slices.Contains(mapped[to:to+n], true) {
					continue
				}
				o.moved(a, b, uint64(to))
				copy(want[to:to+n], want[start:start+n])
				clear(want[start : start+n])
				for i := range n {
					mapped[to+i], mapped[start+i] = true, false
				}
				o.unmapped(a, b)
			case "unmap":
				o.unmapped(a, b)
				clear(want[start : start+n])
				clear(mapped[start : start+n])
			case "remove":
				if slices.Contains(mapped[start:start+n], false) {
					continue
				}
				o.removed(a, b)
				clear(want[start : start+n])
			case "settle":
				settle(&o, &mapped)
			}
		}
		child := o.forked()
		for _, x := range []*owed{&o, &child} {
			settle(x, &mapped)
			if got := flat(t, x.missing); got != want {
				t.Fatalf("got  %v\nwant %v", got, want)
			}
		}
	})
}

// TestOwedOutOfOrder has events come in the order in which they can be queued: memory at 0 goes away, and before that is
// reported memory from 32 takes its place.
func TestOwedOutOfOrder(t *testing.T) {
	const left, size, other, far = 0, 8, 32, 48
	data := content(modelPages)
	for _, c := range []struct {
		name   string
		events func(*owed)
		want   map[int]byte // first page of what is owed
		mapped []int
	}{
		{"the late event of a place that was left", func(o *owed) {
			o.moved(left, size, far)
			o.moved(other, other+size, left)
			o.unmapped(left, size)
			o.unmapped(other, other+size)
		}, map[int]byte{far: 1, left: 33}, []int{left, far}},
		{"a late munmap", func(o *owed) {
			o.moved(other, other+size, left)
			o.unmapped(left, size)
			o.unmapped(other, other+size)
		}, map[int]byte{left: 33}, []int{left}},
		{"a late mremap", func(o *owed) {
			o.moved(other, other+size, left)
			o.moved(left, size, far)
			o.unmapped(left, size)
			o.unmapped(other, other+size)
		}, map[int]byte{far: 1, left: 33}, []int{left, far}},
		{"a late mremap of memory of which nothing was missing", func(o *owed) {
			o.missing.cut(left, size)
			o.moved(other, other+size, left)
			o.moved(left, size, far)
			o.unmapped(other, other+size)
			o.unmapped(left, size)
		}, map[int]byte{left: 33}, []int{left, far}},
		{"moved twice", func(o *owed) {
			o.unmapped(left, size)
			o.moved(other, other+size, left)
			o.moved(left, size, far)
			o.unmapped(other, other+size)
			o.unmapped(left, size)
		}, map[int]byte{far: 33}, []int{far}},
		{"moved twice, leaving empty memory behind", func(o *owed) {
			o.moved(other, other+size, far)
			o.moved(far, far+size, far+size)
		}, map[int]byte{far + size: 33, left: 1}, []int{left, other, far, far + size}},
		{"moved in and thrown away", func(o *owed) {
			o.moved(other, other+size, far)
			o.removed(far, far+size)
		}, map[int]byte{left: 1}, []int{left, far}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := owed{missing: segments{{start: left, end: size, data: data}, {start: other, end: other + size, data: data[other:]}}}
			c.events(&o)
			var mapped [modelPages]bool
			for _, m := range c.mapped {
				for i := range size {
					mapped[m+i] = true
				}
			}
			settle(&o, &mapped)
			var got, want model
			for _, s := range o.missing {
				copy(got[s.start:s.end], s.bytes())
			}
			for at, first := range c.want {
				for i := range size {
					want[at+i] = first + byte(i)
				}
			}
			if got != want {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

// TestForkedIsWiped leaves out what a child does not inherit, wherever it has been moved.
func TestForkedIsWiped(t *testing.T) {
	data := content(modelPages)
	o := owed{missing: segments{{start: 0, end: 4, data: data, wiped: true}, {start: 8, end: 12, data: data, wiped: true}, {start: 16, end: 20, data: data}}}
	o.moved(0, 2, 40)
	o.moved(16, 18, 50)
	child := o.forked()
	if len(child.missing) != 1 || child.missing[0].start != 18 || len(child.claims) != 1 || child.claims[0].places[0].addr != 50 {
		t.Errorf("the child is owed %+v", child)
	}
}

package pager

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const modelBytes = 64

// model is memory as one byte a page: 0 is a page that is not missing. Pages are one byte long here.
type model [modelBytes]byte

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

// TestSegments compares cut, put and replace with a map of modelBytes.
func TestSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ss segments
		var want model
		data := content(200)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			start := rapid.IntRange(0, modelBytes-1).Draw(t, "start")
			end := rapid.IntRange(start+1, modelBytes).Draw(t, "end")
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

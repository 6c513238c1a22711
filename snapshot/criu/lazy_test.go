package criu

import (
	"slices"
	"testing"
)

// TestPieces splits runs at the edges of what a child does not inherit; each piece points to its own part of the file.
func TestPieces(t *testing.T) {
	const p = pageSize
	r := run{addr: 10 * p, pages: 10, offset: 3 * p}
	for name, c := range map[string]struct {
		wiped []span
		want  []PageRun
	}{
		"none":    {nil, []PageRun{{10 * p, 20 * p, "f", 3 * p, false}}},
		"outside": {[]span{{0, 10 * p}, {20 * p, 30 * p}}, []PageRun{{10 * p, 20 * p, "f", 3 * p, false}}},
		"all":     {[]span{{0, 30 * p}}, []PageRun{{10 * p, 20 * p, "f", 3 * p, true}}},
		"two": {[]span{{5 * p, 12 * p}, {15 * p, 16 * p}}, []PageRun{
			{10 * p, 12 * p, "f", 3 * p, true}, {12 * p, 15 * p, "f", 5 * p, false},
			{15 * p, 16 * p, "f", 8 * p, true}, {16 * p, 20 * p, "f", 9 * p, false}}},
	} {
		if got := pieces(r, "f", c.wiped); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

package store

import (
	"slices"
	"testing"
)

func TestJoined(t *testing.T) {
	list := []extent{{0, 1}, {10, 2}, {15, 5}, {1000, 1}, {1004, 1}, {1008, 2}}
	for most, want := range map[int][]extent{
		9: list,
		6: list,
		3: {{0, 1}, {10, 10}, {1000, 10}},
		2: {{0, 20}, {1000, 10}},
		1: {{0, 1010}},
	} {
		if got := joined(slices.Clone(list), most); !slices.Equal(got, want) {
			t.Errorf("at most %d parts: %v, want %v", most, got, want)
		}
	}
}

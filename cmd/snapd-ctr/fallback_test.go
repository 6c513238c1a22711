package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestShortened(t *testing.T) {
	long := strings.Repeat("ä", 300)
	for _, c := range []struct {
		why, want string
		all       bool
	}{
		{"one", "one", true},
		{"one; two", "one; two", true},
		{"one\ntwo", "one; two", true},
		{"one; " + long + "; three", "one; and 2 more", false},
		{long, strings.Repeat("ä", reasonsRoom-1) + "…", false},
	} {
		got, all := shortened(c.why)
		if got != c.want || all != c.all || utf8.RuneCountInString(got) > reasonsRoom+len("; and 999 more") {
			t.Errorf("%.20q… gives %q, all %v; want %q, %v", c.why, got, all, c.want, c.all)
		}
	}
}

package main

import (
	"fmt"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// reasonsRoom is how many characters of reasons are printed where all of them can be seen elsewhere.
const reasonsRoom = 120

// sayFallback says in one line why clones were not made by the template engine where that was left open.
func sayFallback(a *app, ref string, clones []*snapshot.Container) {
	for _, c := range clones {
		if c.EngineWhy != "" {
			why, all := shortened(c.EngineWhy)
			if !all {
				why += " (snapd-ctr snapshots inspect " + ref + " lists all)"
			}
			a.words("engine %s, since %s", c.Engine, plain(why))
			return
		}
	}
}

// shortened keeps as many reasons as there is room for, and says how many more there are; all says that none was cut.
func shortened(why string) (text string, all bool) {
	reasons := strings.Split(oneLine(why), "; ")
	text = cut(reasons[0], reasonsRoom)
	for i, r := range reasons[1:] {
		if len(text)+len(r)+2 > reasonsRoom {
			return fmt.Sprintf("%s; and %d more", text, len(reasons)-1-i), false
		}
		text += "; " + r
	}
	return text, len(text) >= len(oneLine(why))
}

// cut shortens a text to at most n characters.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return strings.TrimRight(string(r[:n-1]), " ") + "…"
}

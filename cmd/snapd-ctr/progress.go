package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// frame is the shortest time between two pictures of a status line.
const frame = 100 * time.Millisecond

// statusLine shows progress in one line of a terminal. Where standard error is none it shows nothing.
type statusLine struct {
	w     *os.File // nil: show nothing
	now   func() time.Time
	drawn time.Time
}

func newStatusLine(w *os.File, now func() time.Time, wanted bool) *statusLine {
	if !wanted || !term.IsTerminal(int(w.Fd())) {
		w = nil
	}
	return &statusLine{w: w, now: now}
}

func (l *statusLine) show(p api.Progress) {
	if l.w == nil {
		return
	}
	now := l.now()
	if now.Sub(l.drawn) < frame {
		return
	}
	l.drawn = now
	fmt.Fprintf(l.w, "\r\x1b[K%s", progressText(p))
}

// progressText is one picture. Totals are bytes where they are large enough to be nothing else.
func progressText(p api.Progress) string {
	if p.Total <= 0 {
		return plain(p.Phase) + " …"
	}
	percent := 100 * float64(p.Done) / float64(p.Total)
	if p.Total < 1<<16 {
		return fmt.Sprintf("%s  %d of %d  %.0f %%", plain(p.Phase), p.Done, p.Total, percent)
	}
	return fmt.Sprintf("%s  %s of %s  %.0f %%", plain(p.Phase), bytesText(p.Done), bytesText(p.Total), percent)
}

// clear leaves an empty line.
func (l *statusLine) clear() {
	if l.w != nil && !l.drawn.IsZero() {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
}

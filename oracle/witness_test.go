package oracle

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/picture"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// witness is what is known of one container: how it looks from outside, and what it says.
type witness struct {
	name, engine string // engine is "" for the original
	container    *snapshot.Container
	picture      *picture.Picture
	report       []string
}

// question is one that a program answers in words.
type question func(*snapshot.Container) (string, error)

// look takes the picture of a container, and asks it for its report where it can give one.
func look(t *testing.T, name, engine string, c *snapshot.Container, report question) witness {
	t.Helper()
	p, err := picture.Of(c.Pid)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 20; try++ { // a child that has just ended
		time.Sleep(20 * time.Millisecond)
		p, err = picture.Of(c.Pid)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	w := witness{name: name, engine: engine, container: c, picture: p}
	if report != nil {
		text, err := report(c)
		if err != nil {
			t.Fatalf("report of %s: %v", name, err)
		}
		w.report = strings.Split(text, "\n")
	}
	return w
}

// settled takes the clone's picture again while it differs from the original's: right after a clone its memory is on its
// way, and its threads return from calls that were interrupted.
func settled(original, w witness) witness {
	wait := 5 * time.Millisecond
	for waited := time.Duration(0); waited < 3*time.Second && len(surprises(original, w)) > 0; waited += wait {
		wait = min(2*wait, 80*time.Millisecond)
		time.Sleep(wait)
		p, err := picture.Of(w.container.Pid)
		if err != nil {
			break // it has ended: the next question says so
		}
		w.picture = p
	}
	return w
}

// compare returns in what two containers differ.
func compare(a, b witness) []picture.Change {
	changes := picture.Changes(a.picture, b.picture)
	for _, l := range a.report {
		if !slices.Contains(b.report, l) {
			changes = append(changes, picture.Change{Sign: '-', Name: "says", From: l})
		}
	}
	for _, l := range b.report {
		if !slices.Contains(a.report, l) {
			changes = append(changes, picture.Change{Sign: '+', Name: "says", To: l})
		}
	}
	return changes
}

// surprises returns in what two containers differ without a known reason.
func surprises(a, b witness) []string {
	var lines []string
	for _, c := range compare(a, b) {
		if surprising(c, a.engine, b.engine) {
			lines = append(lines, c.String())
		}
	}
	return lines
}

// surprising says whether a change between the clones of two engines has no known reason. The reasons are stated from the
// original's point of view: what one engine loses is gained on the way from its clone to that of another.
func surprising(c picture.Change, from, to string) bool {
	list := known(from, to)
	return !explained(c.String(), list) && (from == "" || !explained(c.Reversed().String(), list))
}

// same fails the test when two containers differ in what is not known to differ.
func same(t *testing.T, a, b witness) {
	t.Helper()
	if lines := surprises(a, b); len(lines) > 0 {
		t.Errorf("%s and %s differ:\n  %s", a.name, b.name, strings.Join(lines, "\n  "))
	}
}

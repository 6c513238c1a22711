package snapshot

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts anew; commit only what you understand")

// machines are the machines of this package, by the name of their transcript.
var machines = map[string]func() *Machine{
	"capture":      func() *Machine { return CaptureMachine(false) },
	"capture-stop": func() *Machine { return CaptureMachine(true) },
	"clone":        CloneMachine,
	"start":        StartMachine,
}

// play drives a machine to its end, with one thing going wrong, and returns what it asked for, an effect a line. What is
// left then, whole or in part, is taken back later where the machine can.
func play(m *Machine, fail, failUndo, cancelAt Effect) string {
	var b strings.Builder
	next := m.Step(Event{Kind: EventStart})
	write(&b, m, next, fail, failUndo, cancelAt)
	if m.Outcome() == OutcomeUndone || m.commit != "" {
		return b.String()
	}
	b.WriteString("  later:\n")
	write(&b, m, m.Step(Event{Kind: EventUndo}), "", "", "")
	return b.String()
}

func write(b *strings.Builder, m *Machine, next []Effect, fail, failUndo, cancelAt Effect) {
	for len(next) > 0 {
		e := next[0]
		prefix := "  do   "
		if m.Undoing() {
			prefix = "  undo "
		}
		kind := EventDone
		note := ""
		if e == fail || e == failUndo {
			kind, note = EventFailed, "  ! fails"
		}
		if e == cancelAt {
			m.Step(Event{Kind: EventCancel})
			note = "  ! cancelled meanwhile"
		}
		fmt.Fprintf(b, "%s%s%s\n", prefix, e, note)
		next = m.Step(Event{Kind: kind, Effect: e})
	}
	fmt.Fprintf(b, "  = %s", m.Outcome())
	for _, l := range m.Leftover() {
		fmt.Fprintf(b, ", left: %s", l)
	}
	b.WriteString("\n")
}

// TestTranscripts holds every failing step of every machine against its transcript.
func TestTranscripts(t *testing.T) {
	for name, build := range machines {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			b.WriteString("all goes well\n" + play(build(), "", "", ""))
			for _, s := range build().steps {
				fmt.Fprintf(&b, "\n%s fails\n%s", s.Do, play(build(), s.Do, "", ""))
				if s.Undo != "" {
					fmt.Fprintf(&b, "\n%s fails and %s too\n%s", s.Do, s.Undo, play(build(), s.Do, s.Undo, ""))
				}
				fmt.Fprintf(&b, "\ncancelled during %s\n%s", s.Do, play(build(), "", "", s.Do))
			}
			path := filepath.Join("testdata", name+".txt")
			if *rewrite {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("the machine behaves differently from %s (-want +got):\n%s", path, diff)
			}
		})
	}
}

package snapshot

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts anew; commit only what you understand")

// machines are the machines of this package, by the name of their transcript.
var machines = map[string]func() *Machine{
	"capture":      func() *Machine { return CaptureMachine(false) },
	"capture-stop": func() *Machine { return CaptureMachine(true) },
	"clone":        CloneMachine,
}

// play drives a machine to its end, with one thing going wrong, and returns what it asked for, an effect a line.
func play(m *Machine, fail, failUndo, cancelAt Effect) string {
	var b strings.Builder
	next := m.Step(Event{Kind: EventStart})
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
		fmt.Fprintf(&b, "%s%s%s\n", prefix, e, note)
		next = m.Step(Event{Kind: kind, Effect: e})
	}
	fmt.Fprintf(&b, "  = %s", m.Outcome())
	for _, l := range m.Leftover() {
		fmt.Fprintf(&b, ", left: %s", l)
	}
	b.WriteString("\n")
	return b.String()
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

// TestMachineUndoesWhatItDid checks, for any steps and any failure, that what was done is undone in reverse order and
// that nothing is undone which was not asked for.
func TestMachineUndoesWhatItDid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "steps")
		var steps []Step
		for i := range n {
			s := Step{Do: Effect(fmt.Sprintf("do%d", i))}
			if rapid.Bool().Draw(t, "has undo") {
				s.Undo = Effect(fmt.Sprintf("undo%d", i))
			}
			steps = append(steps, s)
		}
		fail := rapid.IntRange(0, n-1).Draw(t, "fails")
		m := NewMachine("any", steps, "")
		var did, undid []Effect
		err := Execute(context.Background(), m, actionsFor(steps, fail), func(e Effect, undoing bool, do func() error) error {
			if undoing {
				undid = append(undid, e)
			} else {
				did = append(did, e)
			}
			return do()
		})
		if !errors.Is(err, errBroken) {
			t.Fatalf("error %v, want that of the failing step", err)
		}
		var want []Effect
		for i := fail; i >= 0; i-- {
			if steps[i].Undo != "" {
				want = append(want, steps[i].Undo)
			}
		}
		if !slices.Equal(undid, want) {
			t.Fatalf("did %v, undid %v, want %v", did, undid, want)
		}
		if m.Outcome() != OutcomeUndone {
			t.Fatalf("outcome %s", m.Outcome())
		}
	})
}

var errBroken = errors.New("broken")

func actionsFor(steps []Step, fail int) Actions {
	return Actions{steps[fail].Do: func(context.Context) error { return errBroken }}
}

func TestExecuteCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the user pressed a key")
	var undoCtx error
	m := NewMachine("x", []Step{{Do: "a", Undo: "not-a"}, {Do: "b"}}, "")
	err := Execute(ctx, m, Actions{
		"a":     func(context.Context) error { cancel(why); return nil },
		"not-a": func(ctx context.Context) error { undoCtx = ctx.Err(); return nil },
		"b":     func(context.Context) error { t.Error("b was done after the cancellation"); return nil },
	}, nil)
	if !errors.Is(err, why) || undoCtx != nil || m.Outcome() != OutcomeUndone {
		t.Fatalf("error %v, undo context %v, outcome %s", err, undoCtx, m.Outcome())
	}
}

func TestExecuteAfterCommit(t *testing.T) {
	m := NewMachine("x", []Step{{Do: "a", Undo: "not-a"}, {Do: "commit"}, {Do: "tidy"}}, "commit")
	err := Execute(t.Context(), m, Actions{
		"not-a": func(context.Context) error { t.Error("undone after the point of no return"); return nil },
		"tidy":  func(context.Context) error { return errBroken },
	}, nil)
	if !errors.Is(err, errBroken) || m.Outcome() != OutcomeStuck {
		t.Fatalf("error %v, outcome %s", err, m.Outcome())
	}
}

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var errBroken = errors.New("broken")

// recording returns an action for every effect of m that notes it in done. The effects in fails are broken.
func recording(m *Machine, done *[]Effect, fails ...Effect) Actions {
	actions := make(Actions)
	add := func(e Effect) {
		actions[e] = func(context.Context) error {
			*done = append(*done, e)
			if slices.Contains(fails, e) {
				return errBroken
			}
			return nil
		}
	}
	for _, s := range m.steps {
		add(s.Do)
		add(s.Undo)
	}
	return actions
}

// TestExecutionUndoesWhatItDid checks, for any steps and any failure, that what was done is undone in reverse order and
// that nothing is undone which was not asked for.
func TestExecutionUndoesWhatItDid(t *testing.T) {
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
		var want, did []Effect
		for _, s := range steps[:fail+1] {
			want = append(want, s.Do)
		}
		for i := fail; i >= 0; i-- {
			if steps[i].Undo != "" {
				want = append(want, steps[i].Undo)
			}
		}
		m := NewMachine("any", steps, "")
		err := NewExecution(m, recording(m, &did, steps[fail].Do)).Do(context.Background())
		if !errors.Is(err, errBroken) {
			t.Fatalf("error %v, want that of the failing step", err)
		}
		if !slices.Equal(did, want) || m.Outcome() != OutcomeUndone {
			t.Fatalf("did %v, want %v; outcome %s", did, want, m.Outcome())
		}
	})
}

func TestExecutionCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the user pressed a key")
	m := NewMachine("x", []Step{{Do: "a", Undo: "not-a"}, {Do: "b"}}, "")
	err := NewExecution(m, Actions{
		"a": func(context.Context) error { cancel(why); return nil },
		"not-a": func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); ctx.Err() != nil || !bounded {
				t.Errorf("context of the undo: %v, bounded %v", ctx.Err(), bounded)
			}
			return errBroken
		},
		"b": func(context.Context) error { t.Error("b was done after the cancellation"); return nil },
	}).Do(ctx)
	if !errors.Is(err, why) || !errors.Is(err, errBroken) || m.Outcome() != OutcomeStuck {
		t.Fatalf("error %v, outcome %s", err, m.Outcome())
	}
}

func TestExecutionAfterCommit(t *testing.T) {
	var did []Effect
	m := NewMachine("x", []Step{{Do: "a", Undo: "not-a"}, {Do: "commit"}, {Do: "tidy"}}, "commit")
	err := NewExecution(m, recording(m, &did, "tidy")).Do(t.Context())
	if !errors.Is(err, errBroken) || m.Outcome() != OutcomeStuck {
		t.Fatalf("error %v, outcome %s", err, m.Outcome())
	}
	if diff := cmp.Diff([]Effect{"a", "commit", "tidy"}, did); diff != "" {
		t.Error(diff)
	}
}

// TestExecutionTellsWhat checks what an execution says: the errors, the times, the progress.
func TestExecutionTellsWhat(t *testing.T) {
	var did, progress, timed []Effect
	m := NewMachine("x", []Step{{Do: "a", Undo: "not-a"}, {Do: "b", Undo: "not-b"}, {Do: "c"}}, "")
	x := NewExecution(m, recording(m, &did, "b", "not-a", "not-b"))
	x.Progress = func(e Effect) { progress = append(progress, e) }
	err := x.Do(t.Context())
	if err == nil || err.Error() != "b: broken\nnot-b: broken\nnot-a: broken" {
		t.Errorf("error %q", err)
	}
	for _, p := range x.Phases {
		timed = append(timed, Effect(p.Name))
	}
	want := []Effect{"a", "b"}
	if !slices.Equal(progress, want) || !slices.Equal(timed, want) {
		t.Errorf("progress %v and times of %v, want %v", progress, timed, want)
	}
	if err := x.Undo(t.Context()); err == nil || err.Error() != "not-b: broken\nnot-a: broken" {
		t.Errorf("error of another try: %q", err)
	}

	says := &Error{Kind: KindExists, Op: "make", On: "it", Err: errBroken}
	m = NewMachine("x", []Step{{Do: "a"}}, "")
	err = NewExecution(m, Actions{"a": func(context.Context) error { return says }}).Do(t.Context())
	if KindOf(err) != KindExists || err.Error() != says.Error() {
		t.Errorf("error %q, want %q", err, says)
	}
}

func TestExecutionWantsAllActions(t *testing.T) {
	defer func() {
		if said := fmt.Sprint(recover()); !strings.Contains(said, "no action for a") {
			t.Errorf("it said %s", said)
		}
	}()
	NewExecution(NewMachine("x", []Step{{Do: "a", Undo: "not-a"}}, ""), Actions{"a": func(context.Context) error { return nil }})
}

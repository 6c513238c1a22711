package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
)

// undoTimeout is how long one undo may take.
const undoTimeout = 20 * time.Second

// Actions maps the effects of a machine, undos included, to what carries them out.
type Actions map[Effect]func(context.Context) error

// Execution carries out what a machine asks for. Each step is a failpoint, "MACHINE.EFFECT" before and
// "MACHINE.after-EFFECT" behind; the latter stands for everything that can go wrong before the next one begins.
type Execution struct {
	Progress func(Effect) // called before each step; may be nil
	Phases   []Phase      // how long each step took; a step may put in phases of its own

	machine *Machine
	actions Actions
}

// NewExecution returns the execution of m. An effect without an action is a bug in the caller and panics.
func NewExecution(m *Machine, actions Actions) *Execution {
	for _, s := range m.steps {
		if actions[s.Do] == nil || s.Undo != "" && actions[s.Undo] == nil {
			panic(fmt.Sprintf("%s: no action for %s or its undo", m.name, s.Do))
		}
	}
	return &Execution{machine: m, actions: actions}
}

// Do takes the machine's steps; the end of ctx cancels it. The error is that of the step that failed, named after it
// where it does not say what was being done, or the cause of ctx's end, and those of undos that failed as well.
func (x *Execution) Do(ctx context.Context) error {
	failed, left := x.drive(ctx, EventStart)
	if failed == nil && x.machine.Outcome() != OutcomeDone {
		failed = context.Cause(ctx)
	}
	return errors.Join(failed, left)
}

// Undo takes back what Do has made, once that is no longer wanted. After a Do that failed it tries again what could not
// be undone then. The machine must have no point of no return.
func (x *Execution) Undo(ctx context.Context) error {
	_, left := x.drive(ctx, EventUndo)
	return left
}

func (x *Execution) drive(ctx context.Context, first EventKind) (failed, left error) {
	ev := Event{Kind: first}
	for next := x.machine.Step(ev); len(next) > 0; next = x.machine.Step(ev) {
		ev = Event{Kind: EventDone, Effect: next[0]}
		var err error
		if x.machine.Undoing() {
			err = x.undo(ctx, ev.Effect)
			left = errors.Join(left, err)
		} else {
			err = x.step(ctx, ev.Effect)
			failed = err
			if ctx.Err() != nil {
				x.machine.Step(Event{Kind: EventCancel})
			}
		}
		if err != nil {
			ev.Kind = EventFailed
		}
	}
	return failed, left
}

func (x *Execution) step(ctx context.Context, e Effect) error {
	if x.Progress != nil {
		x.Progress(e)
	}
	err := fault.Point(x.machine.name + "." + string(e))
	if err == nil {
		start := time.Now()
		err = x.actions[e](ctx)
		x.Phases = append(x.Phases, Phase{Name: string(e), MS: float64(time.Since(start).Microseconds()) / 1000})
	}
	if err == nil {
		err = fault.Point(x.machine.name + ".after-" + string(e))
	}
	if _, says := errors.AsType[*Error](err); err == nil || says {
		return err
	}
	return fmt.Errorf("%s: %w", e, err)
}

// undo gives an undo a time of its own: a cancellation is the reason for it, and must not end it.
func (x *Execution) undo(ctx context.Context, e Effect) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), undoTimeout, fmt.Errorf("not done in %s", undoTimeout))
	defer cancel()
	if err := x.actions[e](ctx); err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	return nil
}

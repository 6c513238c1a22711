package snapshot

import "fmt"

// Effect names one thing that an operation does to the world, or undoes.
type Effect string

// Step is an effect and the effect that takes it back. An empty Undo means that there is nothing to take back.
type Step struct {
	Do   Effect
	Undo Effect
}

// EventKind is what happened.
type EventKind int

// What can happen to a machine.
const (
	EventStart  EventKind = iota // begin
	EventDone                    // the effect asked for last was done
	EventFailed                  // the effect asked for last failed; it left nothing behind, or its undo copes
	EventCancel                  // the user wants out; honoured after the effect under way
	EventUndo                    // what the machine, which has ended, has made is no longer wanted
)

// Event is something that happened. Effect names the effect that it is about, for EventDone and EventFailed.
type Event struct {
	Kind   EventKind
	Effect Effect
}

// Outcome is how a machine ended.
type Outcome string

// The ways in which a machine ends. A machine that has not ended has the empty outcome.
const (
	OutcomeDone   Outcome = "done"   // every step was done
	OutcomeUndone Outcome = "undone" // a step failed, or the user cancelled; everything before it was taken back
	OutcomeStuck  Outcome = "stuck"  // an undo failed too; what is left is named by Machine.Leftover
)

// Machine drives an operation that is a sequence of steps. It is pure: [Machine.Step] takes an event and returns the
// effects to be carried out next, in order, and touches nothing itself. A step that fails, or a cancellation, makes it
// ask for the undo effects of the failed step and of all steps before it, newest first. Up to and including the step
// named as the point of no return a failure is undone; after it the machine only goes forward, and failures of later
// steps are reported without undoing anything. Where there is no such point, all can be taken back after the end as well.
type Machine struct {
	name    string
	steps   []Step
	commit  Effect
	next    int      // index of the step under way
	undo    []Effect // undo effects still to be asked for, the one under way first
	left    []Effect
	begun   bool
	cancel  bool
	undoing bool
	out     Outcome
}

// NewMachine returns a machine for the steps. commit names the point of no return, or is empty.
func NewMachine(name string, steps []Step, commit Effect) *Machine {
	return &Machine{name: name, steps: steps, commit: commit}
}

// Outcome returns how the machine ended, or "" while it has not.
func (m *Machine) Outcome() Outcome { return m.out }

// Leftover returns the undo effects that failed.
func (m *Machine) Leftover() []Effect { return m.left }

// Undoing says whether the machine is taking things back.
func (m *Machine) Undoing() bool { return m.undoing }

// Step takes an event and returns the effect to carry out next; none means that the machine has ended.
// An event that cannot happen in the machine's state is a bug in the caller and panics.
func (m *Machine) Step(ev Event) []Effect {
	switch {
	case m.out != "":
		if ev.Kind == EventCancel {
			return nil
		}
		if ev.Kind == EventUndo && m.commit == "" {
			return m.takeBack()
		}
		panic(fmt.Sprintf("%s: event %d after the end", m.name, ev.Kind))
	case ev.Kind == EventStart:
		if m.begun {
			panic(m.name + ": started twice")
		}
		m.begun = true
		return m.forward()
	case ev.Kind == EventCancel:
		// The effect under way is never interrupted by the machine; its executor may be.
		m.cancel = true
		return nil
	case m.undoing:
		return m.undone(ev)
	default:
		return m.did(ev)
	}
}

func (m *Machine) did(ev Event) []Effect {
	if m.next >= len(m.steps) || ev.Effect != m.steps[m.next].Do {
		panic(fmt.Sprintf("%s: %s was not asked for", m.name, ev.Effect))
	}
	if ev.Kind == EventFailed {
		if m.committed(m.next) {
			m.out = OutcomeStuck
			m.left = append(m.left, ev.Effect)
			return nil
		}
		return m.back()
	}
	if m.cancel && !m.committed(m.next+1) {
		return m.back()
	}
	m.next++
	return m.forward()
}

// committed says whether the point of no return lies before step i.
func (m *Machine) committed(i int) bool {
	for _, s := range m.steps[:i] {
		if s.Do == m.commit && m.commit != "" {
			return true
		}
	}
	return false
}

func (m *Machine) forward() []Effect {
	if m.next == len(m.steps) {
		m.out = OutcomeDone
		return nil
	}
	if m.cancel && !m.committed(m.next) {
		m.next--
		return m.back()
	}
	return []Effect{m.steps[m.next].Do}
}

func (m *Machine) back() []Effect {
	m.undoing = true
	for i := m.next; i >= 0; i-- {
		if u := m.steps[i].Undo; u != "" {
			m.undo = append(m.undo, u)
		}
	}
	return m.nextUndo()
}

// takeBack undoes everything, or what is left where that was tried before.
func (m *Machine) takeBack() []Effect {
	ended := m.out
	m.out = ""
	if ended == OutcomeDone {
		m.next--
		return m.back()
	}
	m.undo, m.left = m.left, nil
	return m.nextUndo()
}

func (m *Machine) nextUndo() []Effect {
	if len(m.undo) == 0 {
		m.out = OutcomeUndone
		if len(m.left) > 0 {
			m.out = OutcomeStuck
		}
		return nil
	}
	return m.undo[:1]
}

func (m *Machine) undone(ev Event) []Effect {
	if ev.Effect != m.undo[0] {
		panic(fmt.Sprintf("%s: undo %s was not asked for", m.name, ev.Effect))
	}
	if ev.Kind == EventFailed {
		m.left = append(m.left, ev.Effect)
	}
	m.undo = m.undo[1:]
	return m.nextUndo()
}

// Effects returns the effects of the machine's steps, in order.
func (m *Machine) Effects() []Effect {
	var es []Effect
	for _, s := range m.steps {
		es = append(es, s.Do)
	}
	return es
}

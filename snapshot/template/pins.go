package template

import (
	"context"
	"errors"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// A pinned template that dies is built again at once, unless the one before did not live for this long or could not be
// built: then after a pause, which grows up to this.
const steadyLife = time.Minute

// Pin builds the template of a snapshot, unless there is one, and keeps it until [Engine.Remove]: one that dies is built
// again. r is what a clone would be made of.
func (e *Engine) Pin(ctx context.Context, r shim.CloneRequest) (t snapshot.Template, built bool, err error) {
	before := e.standing(r)
	place, parent, err := e.resident(ctx, r)
	if err != nil {
		return t, false, err
	}
	if place.pinned.CompareAndSwap(false, true) {
		go e.keep(place, r)
	}
	return place.state(), parent != before, nil
}

// standing returns the snapshot's template, nil if there is none.
func (e *Engine) standing(r shim.CloneRequest) *Template {
	t := e.place(r)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.template
}

// keep builds a pinned template again whenever it has died.
func (e *Engine) keep(t *resident, r shim.CloneRequest) {
	var pause time.Duration
	for {
		ctx, cancel := t.whileThere()
		began := time.Now()
		parent, err := e.settled(ctx, r, t)
		cancel()
		if t.isGone() {
			return
		}
		if err == nil {
			select {
			case <-t.gone:
				return
			case <-parent.Dead():
			}
			e.Log.Warn("the pinned template died and is built again", "pid", parent.Pid, "lived", time.Since(began))
		} else {
			e.Log.Warn("the pinned template could not be built again", "error", err)
		}
		if pause = nextPause(pause, err == nil && time.Since(began) >= steadyLife); pause == 0 {
			continue
		}
		select {
		case <-t.gone:
			return
		case <-time.After(pause):
		}
	}
}

// nextPause returns how long to wait after the pause before: the first death in a row is none to wait for.
func nextPause(before time.Duration, steady bool) time.Duration {
	switch {
	case steady:
		return 0
	case before == 0:
		return 10 * time.Millisecond
	}
	return min(before*4, steadyLife)
}

// Remove ends the template of the snapshot and says whether there was one. Its clones live on.
func (e *Engine) Remove(id string) (bool, error) {
	e.mu.Lock()
	var found []*resident
	for images, t := range e.templates {
		if t.snapshot == id {
			found = append(found, t)
			delete(e.templates, images)
		}
	}
	e.mu.Unlock()
	was := false
	var errs []error
	for _, t := range found {
		there, err := t.end()
		was = was || there || t.pinned.Load()
		errs = append(errs, err)
	}
	return was, errors.Join(errs...)
}

// Templates lists the templates that are there, and those that are built again.
func (e *Engine) Templates() []snapshot.Template {
	var all []snapshot.Template
	for _, t := range e.places() {
		if s := t.state(); s.Pid != 0 || s.State == snapshot.TemplatePinned {
			all = append(all, s)
		}
	}
	return all
}

// Pinned says whether a template is to stay without clones.
func (e *Engine) Pinned() bool {
	for _, t := range e.places() {
		if t.pinned.Load() {
			return true
		}
	}
	return false
}

func (e *Engine) places() []*resident {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*resident, 0, len(e.templates))
	for _, t := range e.templates {
		all = append(all, t)
	}
	return all
}

// state describes the template. While it is being built this waits.
func (t *resident) state() snapshot.Template {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := snapshot.Template{Snapshot: t.snapshot, State: snapshot.TemplateIdle, Clones: t.clones.Load(), Built: t.built,
		BuildMS: float64(t.took.Microseconds()) / 1000}
	if t.pinned.Load() {
		s.State = snapshot.TemplatePinned
	}
	if t.template == nil || t.template.died() {
		return s
	}
	s.Pid = t.template.Pid
	// It may die at any time: what cannot be read then is zero.
	m, _ := proc.ReadRollup(s.Pid)
	s.ResidentBytes, s.PSSBytes, s.HugeBytes = m.RSS, m.PSS, m.Huge
	return s
}

// end ends the template, for good, and says whether it was there. The place is no longer one for templates.
func (t *resident) end() (there bool, err error) {
	close(t.gone)
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	if slots := t.slots.Load(); slots != nil {
		errs = append(errs, slots.Close())
	}
	if t.template != nil {
		there = !t.template.died()
		errs = append(errs, t.template.Close())
	}
	return there, errors.Join(errs...)
}

func (t *resident) isGone() bool {
	select {
	case <-t.gone:
		return true
	default:
		return false
	}
}

// whileThere returns a context that ends with the place.
func (t *resident) whileThere() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-t.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// died says whether the template has ended.
func (t *Template) died() bool {
	select {
	case <-t.dead:
		return true
	default:
		return false
	}
}

// dying waits a moment for the end of a template that has stopped answering, and says whether it came.
func (t *Template) dying() bool {
	select {
	case <-t.dead:
		return true
	case <-time.After(200 * time.Millisecond):
		return false
	}
}

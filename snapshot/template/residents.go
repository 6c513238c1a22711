package template

import (
	"context"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// place returns the place of the template of the snapshot that is asked for, there or not.
func (e *Engine) place(r shim.CloneRequest) *resident {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.templates[r.Images]
	if t == nil {
		t = &resident{snapshot: r.Record.Snapshot, gone: make(chan struct{})}
		if e.templates == nil {
			e.templates = make(map[string]*resident)
		}
		e.templates[r.Images] = t
	}
	return t
}

// resident returns the place of the snapshot's template, and the template.
func (e *Engine) resident(ctx context.Context, r shim.CloneRequest) (*resident, *Template, error) {
	for {
		t := e.place(r)
		parent, err := e.settled(ctx, r, t)
		if !t.isGone() {
			return t, parent, err
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
	}
}

// settled returns the template of a place, which it builds if there is none or it has died. Of a place that is gone it
// returns nothing of use.
func (e *Engine) settled(ctx context.Context, r shim.CloneRequest, t *resident) (*Template, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isGone() {
		return nil, nil
	}
	if t.template != nil {
		if !t.template.died() {
			return t.template, nil
		}
		if !t.pinned.Load() {
			e.Log.Warn("the template died and is built again", "pid", t.template.Pid)
		}
		_ = t.template.Close()
		t.template = nil
	}
	if err := e.able(ctx); err != nil {
		return nil, err
	}
	err := e.build(ctx, r, t)
	return t.template, err
}

// able asks once whether this host can.
func (e *Engine) able(ctx context.Context) error {
	e.fitness.Lock()
	defer e.fitness.Unlock()
	if e.fit || e.unfit != nil || e.Check == nil {
		return e.unfit
	}
	err := e.Check(ctx)
	if snapshot.KindOf(err) == snapshot.KindUnsupported {
		e.unfit = err
	}
	e.fit = err == nil
	return err
}

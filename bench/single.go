package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/snapd-ctr/snapd-ctr/bench/baseline"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// turns makes clones of a subject by every engine that can, in turns, n of each, and has each measured before it is
// removed. The values are those that measured returns.
func (b *bench) turns(ctx context.Context, s *subject, n int, measured func(c *snapshot.Container, asked time.Time) (float64, error),
	between func() error) (map[string]*series, error) {
	out := make(map[string]*series)
	if err := b.warm(ctx, s, s.engines()...); err != nil {
		return nil, err
	}
	for range n {
		for _, engine := range s.engines() {
			asked := time.Now()
			c, err := b.clone(ctx, s, engine)
			if err != nil {
				return nil, err
			}
			v, err := measured(c, asked)
			if err != nil {
				return nil, err
			}
			if out[engine] == nil {
				out[engine] = &series{}
			}
			out[engine].add(v)
			if err := b.remove(ctx, c); err != nil {
				return nil, err
			}
		}
		if err := between(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// atShim returns how long the shim took for a clone.
func atShim(c *snapshot.Container, _ time.Time) (float64, error) { return c.CloneMS, nil }

// atShimWithSteps does so too, and takes the steps of the template engine down.
func atShimWithSteps(st *steps) func(*snapshot.Container, time.Time) (float64, error) {
	return func(c *snapshot.Container, _ time.Time) (float64, error) {
		if c.Engine == snapshot.EngineTemplate {
			st.add(c.CloneMS, c.Phases)
		}
		return c.CloneMS, nil
	}
}

// shell measures clones of the smallest container there is.
func (b *bench) shell(ctx context.Context) error {
	s, err := b.subject(ctx, subjectShell)
	if err != nil {
		return err
	}
	got, err := b.turns(ctx, s, b.rounds, atShim, func() error { return b.restore(ctx, s) })
	if err != nil {
		return err
	}
	b.Rows = append(b.Rows, row{What: "clone of a shell, request at the shim → running; `runc restore`", Unit: "ms",
		Template: got[snapshot.EngineTemplate], CRIU: got[snapshot.EngineCRIU], Runc: b.restores[s.name], Goals: []goal{timesRunc(4, 10)}})
	return b.commandOf(ctx, s, "a shell", b.rounds, nil)
}

// single measures clones of the Python server, at the shim.
func (b *bench) single(ctx context.Context) error {
	s, err := b.subject(ctx, subjectPython)
	if err != nil {
		return err
	}
	st := newSteps("clone of the Python server by the template engine")
	got, err := b.turns(ctx, s, b.clones, atShimWithSteps(st), func() error { return b.restore(ctx, s) })
	if err != nil {
		return err
	}
	b.Steps = append(b.Steps, st)
	b.Rows = append(b.Rows, row{What: fmt.Sprintf("clone of the Python + numpy server (%.0f MB), request at the shim → all threads running; `runc restore`", s.mb),
		Unit: "ms", Template: got[snapshot.EngineTemplate], CRIU: got[snapshot.EngineCRIU], Runc: b.restores[s.name],
		Goals: append(atMost(bound{2, 6}, bound{0.5, 1.5}), timesRunc(6, 15))})
	return nil
}

// command measures the whole command line, the template being there.
func (b *bench) command(ctx context.Context) error {
	s, err := b.subject(ctx, subjectPython)
	if err != nil {
		return err
	}
	return b.commandOf(ctx, s, "the Python server", b.clones, atMost(bound{P50: 15}, bound{P50: 8}))
}

func (b *bench) commandOf(ctx context.Context, s *subject, what string, n int, goals []goal) error {
	if err := b.warm(ctx, s, s.engines()...); err != nil {
		return err
	}
	took := make(map[string]*series)
	for range n {
		for _, engine := range s.engines() {
			v, err := b.cloneCommand(ctx, s, engine)
			if err != nil {
				return err
			}
			if took[engine] == nil {
				took[engine] = &series{}
			}
			took[engine].add(v)
		}
	}
	theirs, err := b.restored(ctx, s)
	if err != nil {
		return err
	}
	b.Rows = append(b.Rows, row{What: "whole command `snapd-ctr clone` of " + what + "; `runc restore`", Unit: "ms",
		Template: took[snapshot.EngineTemplate], CRIU: took[snapshot.EngineCRIU], Runc: theirs, Goals: goals})
	return nil
}

// response measures the time from the request, made through the library, to the first byte of the clone's first answer
// over a connection that is made as soon as the clone's address is known.
func (b *bench) response(ctx context.Context) error {
	for _, m := range []struct {
		subject, what string
		goals         []goal
	}{
		{subjectPython, "Python", append(atMost(bound{P50: 6}, bound{P50: 2}), goal{Engine: columnCRIU, Must: bound{P50: 80}, Aim: bound{P50: 40}})},
		{subjectNode, "Node", atMost(bound{P50: 10}, bound{P50: 4})},
	} {
		s, err := b.subject(ctx, m.subject)
		if err != nil {
			return err
		}
		if !s.forks {
			m.goals = slices.DeleteFunc(m.goals, func(g goal) bool { return g.Engine == columnCRIU })
		}
		asking := &series{}
		got, err := b.turns(ctx, s, b.clones, func(c *snapshot.Container, asked time.Time) (float64, error) {
			known := time.Now()
			first, err := answers(ctx, c.Network.Address, time.Minute)
			if c.Engine == snapshot.EngineTemplate {
				asking.add(millis(first.Sub(known)))
			}
			return millis(first.Sub(asked)), err
		}, func() error { return nil })
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		b.Rows = append(b.Rows, row{What: fmt.Sprintf("clone of the %s server (%.0f MB), request → first byte of its first HTTP response", m.what, s.mb), Unit: "ms",
			Template: got[snapshot.EngineTemplate], CRIU: got[snapshot.EngineCRIU], Goals: m.goals})
		b.note("first response of %s by the template engine: in %s ms (median) the clone's address is known, whereupon connecting and asking take %s ms",
			m.what, number(got[snapshot.EngineTemplate].median()-asking.median()), number(asking.median()))
	}
	b.note("a first response includes, in one process: the library's bookkeeping (names, directories, record), the request to the shim, the clone, a new TCP connection and the request")
	return nil
}

// capture compares how long a capture of the Python server keeps it from running.
func (b *bench) capture(ctx context.Context) error {
	const name = "bench-captured"
	theirs, err := b.start(ctx, name, b.program(subjectPython))
	if err != nil {
		return err
	}
	frozen, checkpoint := &series{}, &series{}
	for range b.rounds {
		got, err := b.svc.Snapshot(ctx, api.SnapshotRequest{Container: name, Name: name, Replace: true,
			Ready: fmt.Sprintf("http://:%d/healthz", port), Warm: 3})
		if err != nil {
			return err
		}
		frozen.add(got.FrozenMS)
		took, err := b.runc.Checkpoint(ctx, theirs)
		if err != nil {
			return err
		}
		checkpoint.add(millis(took))
		if _, err := b.svc.GC(ctx, false); err != nil {
			return err
		}
	}
	b.Rows = append(b.Rows, row{What: "frozen time of a snapshot of the Python server; `runc checkpoint`", Unit: "ms",
		CRIU: frozen, Runc: checkpoint, Goals: []goal{timesRunc(2, 5)}})
	return b.drop(ctx, name, theirs)
}

// drop ends a program that was started twice.
func (b *bench) drop(ctx context.Context, name string, theirs baseline.Container) error {
	if err := b.svc.Remove(ctx, name, true); err != nil {
		return err
	}
	return b.runc.Delete(ctx, theirs.Name)
}

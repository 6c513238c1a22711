package main

import (
	"context"
	"fmt"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// build measures how long the first clone waits for its template, which is built from the store by a shim that had none.
func (b *bench) build(ctx context.Context) error {
	s, err := b.subject(ctx, subjectPython)
	if err != nil {
		return err
	}
	if !s.forks {
		return fmt.Errorf("%s has no template", s.name)
	}
	took := &series{}
	for range b.rounds {
		if err := b.endShims(ctx); err != nil {
			return err
		}
		c, err := b.clone(ctx, s, snapshot.EngineTemplate)
		if err != nil {
			return err
		}
		took.add(phase(c, snapshot.EffectTemplate))
		if err := b.remove(ctx, c); err != nil {
			return err
		}
	}
	theirs, err := b.restored(ctx, s)
	if err != nil {
		return err
	}
	b.Rows = append(b.Rows, row{What: fmt.Sprintf("template of the Python server (%.0f MB), built from a local snapshot; `runc restore`", s.mb), Unit: "ms",
		Template: took, Runc: theirs, Goals: atMost(bound{P50: 400}, bound{P50: 100})})
	return nil
}

// phase returns how long a step of a clone took.
func phase(c *snapshot.Container, name snapshot.Effect) float64 {
	var ms float64
	for _, p := range c.Phases {
		if p.Name == string(name) {
			ms += p.MS
		}
	}
	return ms
}

// size compares clones of two programs that differ in the size of their memory alone.
func (b *bench) size(ctx context.Context) error {
	growth := row{What: "growth", Unit: "×", Goals: atMost(bound{P50: 2}, bound{P50: 1.3})}
	var rows []row
	for _, name := range []string{subjectSmall, subjectLarge} {
		s, err := b.subject(ctx, name)
		if err != nil {
			return err
		}
		st := newSteps(fmt.Sprintf("clone of %.0f MB by the template engine", s.mb))
		got, err := b.turns(ctx, s, b.rounds, atShimWithSteps(st), func() error { return b.restore(ctx, s) })
		if err != nil {
			return fmt.Errorf("%.0f MB: %w", s.mb, err)
		}
		b.Steps = append(b.Steps, st)
		rows = append(rows, row{What: fmt.Sprintf("clone of a Python server of %.0f MB, at the shim; `runc restore`", s.mb), Unit: "ms",
			Template: got[snapshot.EngineTemplate], CRIU: got[snapshot.EngineCRIU], Runc: b.restores[s.name]})
		growth.What = fmt.Sprintf("growth: clone of %.0f MB against %.0f MB, by the medians", s.mb, b.subjects[subjectSmall].mb)
		// A template of a gigabyte is in nobody's way afterwards.
		if err := b.endShims(ctx); err != nil {
			return err
		}
	}
	grown := func(column string) *series {
		small, large := rows[0].column(column), rows[1].column(column)
		if small == nil || large == nil {
			return nil
		}
		return &series{Values: []float64{large.median() / small.median()}}
	}
	growth.Template, growth.CRIU, growth.Runc = grown(columnTemplate), grown(columnCRIU), grown(columnRunc)
	b.Rows = append(append(b.Rows, rows...), growth)
	return nil
}

// memory measures what an idle clone costs beyond the pages that it wrote: by how much less memory is available with many
// clones, less what is private to them and was written.
func (b *bench) memory(ctx context.Context) error {
	s, err := b.subject(ctx, subjectPython)
	if err != nil {
		return err
	}
	r := row{What: "memory of an idle clone of the Python server beyond the pages that it wrote, everything counted", Unit: "MB",
		Goals: atMost(bound{P50: 1.5}, bound{P50: 0.7})}
	for _, engine := range s.engines() {
		n := b.idle
		if engine == snapshot.EngineCRIU { // each of its clones has all of the memory
			n = max(1, n/8)
		}
		var per []footprint
		for range max(1, b.rounds/10) {
			f, err := b.idleClones(ctx, s, engine, n)
			if err != nil {
				return fmt.Errorf("engine %s: %w", engine, err)
			}
			per = append(per, f)
		}
		got := &series{}
		for _, f := range per {
			got.add(float64(f.beyond()) / 1e6)
		}
		if engine == snapshot.EngineTemplate {
			r.Template = got
		} else {
			r.CRIU = got
		}
		b.note("an idle clone by the engine %s, of %d: %s", engine, n, per[len(per)-1])
	}
	b.Rows = append(b.Rows, r)
	return nil
}

// idleClones makes clones that nobody asks for anything and returns what one of them costs. The shim is a new one, so that
// its growth is counted.
func (b *bench) idleClones(ctx context.Context, s *subject, engine string, n int) (f footprint, err error) {
	if err := b.endShims(ctx); err != nil {
		return f, err
	}
	first, err := b.clone(ctx, s, engine)
	if err != nil {
		return f, err
	}
	before, err := settled(ctx, first.ShimPid, b.settle)
	if err != nil {
		return f, err
	}
	clones := make([]*snapshot.Container, n)
	if err := each(n, 4, func(i int) (err error) {
		clones[i], err = b.clone(ctx, s, engine)
		return err
	}); err != nil {
		return f, err
	}
	if engine == snapshot.EngineCRIU { // its clones get their memory in the background
		client, err := shim.Dial(ctx, first.ShimAddr)
		if err != nil {
			return f, err
		}
		if err := each(n, 4, func(i int) error { return client.Settle(ctx, clones[i].ID) }); err != nil {
			return f, err
		}
	}
	after, err := settled(ctx, first.ShimPid, b.settle)
	if err != nil {
		return f, err
	}
	var wrote, tables int64
	for _, c := range clones {
		w, t, err := written(c.Pid)
		if err != nil {
			return f, fmt.Errorf("memory of the clone %s: %w", c.Name, err)
		}
		wrote, tables = wrote+w, tables+t
	}
	f = cost(before, after, wrote, tables, n)
	return f, each(n+1, 4, func(i int) error {
		if i == n {
			return b.remove(ctx, first)
		}
		return b.remove(ctx, clones[i])
	})
}

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

const (
	answerLimit = time.Minute
	removeLimit = 3 * time.Minute // for all clones of a burst
)

// together is what a burst took.
type together struct {
	running, answered, removed *series
	private                    *series // MB of each clone when all had answered
	threads                    int     // of one clone
	descriptors                int     // of the shim when all ran
}

func newTogether() *together {
	return &together{running: &series{}, answered: &series{}, removed: &series{}, private: &series{}}
}

// atOnce makes n clones in one request, has each answer, and removes them.
func (b *bench) atOnce(ctx context.Context, s *subject, engine string, n int, t *together) error {
	start := time.Now()
	clones, err := b.svc.Clone(ctx, api.CloneRequest{Snapshot: s.name, Count: n, Engine: engine})
	if err != nil {
		return err
	}
	t.running.add(millis(time.Since(start)))
	if err := each(n, 64, func(i int) error {
		_, err := answers(ctx, clones[i].Network.Address, answerLimit)
		return err
	}); err != nil {
		return err
	}
	t.answered.add(millis(time.Since(start)))
	for _, c := range clones {
		m, err := proc.PrivateBytes(c.Pid)
		if err != nil {
			return err
		}
		t.private.add(float64(m) / 1e6)
	}
	t.threads = entries(fmt.Sprintf("/proc/%d/task", clones[0].Pid))
	t.descriptors = entries(fmt.Sprintf("/proc/%d/fd", clones[0].ShimPid))
	ctx, cancel := context.WithTimeoutCause(ctx, removeLimit, fmt.Errorf("%d clones are not removed after %s", n, removeLimit))
	defer cancel()
	start = time.Now()
	err = each(n, atWork(), func(i int) error { return b.remove(ctx, clones[i]) })
	t.removed.add(millis(time.Since(start)))
	return err
}

func entries(dir string) int {
	found, _ := os.ReadDir(dir)
	return len(found)
}

// largeBurst is a thousand clones of a server of 12 threads, alive together.
func (b *bench) largeBurst(ctx context.Context) error {
	s, err := b.subject(ctx, subjectThreads)
	if err != nil {
		return err
	}
	if err := b.room(ctx, s); err != nil {
		return err
	}
	if err := b.warm(ctx, s, s.engines()...); err != nil {
		return err
	}
	took := map[string]*together{snapshot.EngineTemplate: newTogether(), snapshot.EngineCRIU: newTogether()}
	counts := map[string]int{snapshot.EngineTemplate: b.many, snapshot.EngineCRIU: max(1, b.many/5)}
	theirs := &series{}
	for range max(1, b.bursts/10) {
		for _, engine := range s.engines() {
			if err := b.atOnce(ctx, s, engine, counts[engine], took[engine]); err != nil {
				return fmt.Errorf("%d clones by the engine %s: %w", counts[engine], engine, err)
			}
		}
		if err := b.restoreTogether(ctx, s, theirs); err != nil {
			return err
		}
	}
	t, c := took[snapshot.EngineTemplate], took[snapshot.EngineCRIU]
	what := fmt.Sprintf("burst of %d clones of a %d-thread server", b.many, t.threads)
	var goals []goal
	if b.many == whole().many {
		goals = atMost(bound{P50: 4000}, bound{P50: 500})
	} else {
		b.note("a burst of %d clones is not what the goal is set for", b.many)
	}
	perClone := func(s *series, n int) *series { return s.scaled(1 / float64(n)) }
	b.Rows = append(b.Rows,
		row{What: what + ", request → all running", Unit: "ms", Template: t.running, Goals: goals},
		row{What: what + ", request → all have answered", Unit: "ms", Template: t.answered},
		row{What: what + ": all removed in", Unit: "ms", Template: t.removed},
		row{What: fmt.Sprintf("the burst until all run, for each clone; criu: of %d, `runc restore` of %d", counts[snapshot.EngineCRIU], b.burst), Unit: "ms",
			Template: perClone(t.running, b.many), CRIU: perClone(c.running, counts[snapshot.EngineCRIU]), Runc: perClone(theirs, b.burst)})
	b.note("in the burst of %d a clone had %s MB (median) of its own when all had answered, and the shim %d descriptors", b.many, number(t.private.median()), t.descriptors)
	return nil
}

// restoreTogether restores many of runc's containers at once.
func (b *bench) restoreTogether(ctx context.Context, s *subject, took *series) error {
	name := func(i int) string { return fmt.Sprintf("burst-%d", i) }
	start := time.Now()
	if err := each(b.burst, b.burst, func(i int) error {
		_, err := b.runc.Restore(ctx, s.theirs, name(i))
		return err
	}); err != nil {
		return err
	}
	took.add(millis(time.Since(start)))
	return each(b.burst, b.burst, func(i int) error { return b.runc.Delete(ctx, name(i)) })
}

// burstBesideRunc compares the criu engine with runc: as many restores, all at once.
func (b *bench) burstBesideRunc(ctx context.Context) error {
	s, err := b.subject(ctx, subjectPython)
	if err != nil {
		return err
	}
	if err := b.warm(ctx, s, s.engines()...); err != nil {
		return err
	}
	took := map[string]*together{snapshot.EngineTemplate: newTogether(), snapshot.EngineCRIU: newTogether()}
	restored := &series{}
	for range b.bursts {
		for _, engine := range s.engines() {
			if err := b.atOnce(ctx, s, engine, b.burst, took[engine]); err != nil {
				return err
			}
		}
		if err := b.restoreTogether(ctx, s, restored); err != nil {
			return err
		}
	}
	t, c := took[snapshot.EngineTemplate], took[snapshot.EngineCRIU]
	b.Rows = append(b.Rows,
		row{What: fmt.Sprintf("%d clones of the Python server at once, request → all running; as many `runc restore` in parallel", b.burst), Unit: "ms",
			Template: t.running, CRIU: c.running, Runc: restored, Goals: []goal{timesRunc(5, 15)}},
		row{What: "the same, until every clone has answered over HTTP", Unit: "ms", Template: t.answered, CRIU: c.answered, Runc: restored})
	b.note("private memory of a clone of the Python server when all %d had answered: median %s MB by the template engine, %s MB by criu, which brings the rest in the background",
		b.burst, number(t.private.median()), number(c.private.median()))
	return nil
}

// rate measures how many clones of the 12-thread server can be made and destroyed in a second, by as many at work at once
// as there are processors, twice.
func (b *bench) rate(ctx context.Context) error {
	s, err := b.subject(ctx, subjectThreads)
	if err != nil {
		return err
	}
	if err := b.warm(ctx, s, s.engines()...); err != nil {
		return err
	}
	r := row{What: "clones of the 12-thread server made and destroyed in a second, of each second; `runc restore` and `delete`", Unit: "/s", More: true,
		Goals: atMost(bound{P50: 300}, bound{P50: 2500})}
	for _, engine := range s.engines() {
		seconds := b.seconds
		if engine == snapshot.EngineCRIU {
			seconds = max(1, seconds/3)
		}
		var making, removing timer
		got, mean, err := sustained(ctx, seconds, func() error {
			start := time.Now()
			c, err := b.clone(ctx, s, engine)
			if err != nil {
				return err
			}
			made := time.Now()
			err = b.remove(ctx, c)
			making.add(made.Sub(start))
			removing.add(time.Since(made))
			return err
		})
		if err != nil {
			return fmt.Errorf("engine %s: %w", engine, err)
		}
		b.note("made and destroyed by the engine %s, all %d seconds together: %s clones in a second; one of %d at work took %s ms to make its clone and %s ms to remove it (median)",
			engine, seconds, number(mean), atWork(), number(making.median()), number(removing.median()))
		if engine == snapshot.EngineTemplate {
			r.Template = got
		} else {
			r.CRIU = got
		}
	}
	var turn atomic.Int64
	if r.Runc, _, err = sustained(ctx, max(1, b.seconds/3), func() error {
		name := fmt.Sprintf("rate-%d", turn.Add(1))
		if _, err := b.runc.Restore(ctx, s.theirs, name); err != nil {
			return err
		}
		return b.runc.Delete(ctx, name)
	}); err != nil {
		return err
	}
	b.Rows = append(b.Rows, r)
	return nil
}

// atWork is how many make and remove clones at once.
func atWork() int { return 2 * runtime.NumCPU() }

// timer is a series that several can add to.
type timer struct {
	mu sync.Mutex
	series
}

func (t *timer) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.series.add(millis(d))
}

// sustained does a thing again and again for some seconds, several at once, and returns how often it was done in each
// second, and on average until the last one was done.
func sustained(ctx context.Context, seconds int, do func() error) (ofEach *series, mean float64, err error) {
	done := make([]atomic.Int64, seconds)
	start := time.Now()
	var all atomic.Int64
	err = each(atWork(), atWork(), func(int) error {
		for ctx.Err() == nil && time.Since(start) < time.Duration(seconds)*time.Second {
			if err := do(); err != nil {
				return err
			}
			all.Add(1)
			if s := int(time.Since(start) / time.Second); s < seconds {
				done[s].Add(1)
			}
		}
		return ctx.Err()
	})
	mean = float64(all.Load()) / time.Since(start).Seconds()
	ofEach = &series{}
	for i := range done {
		ofEach.add(float64(done[i].Load()))
	}
	return ofEach, mean, err
}

// bridgePorts is how many interfaces a bridge of Linux takes.
const bridgePorts = 1024

// room says with an error what the machine lacks for the large burst, before any of it is made.
func (b *bench) room(ctx context.Context, s *subject) error {
	c, err := b.clone(ctx, s, s.engines()[0])
	if err != nil {
		return err
	}
	if _, err := answers(ctx, c.Network.Address, answerLimit); err != nil {
		return err
	}
	private, err := proc.PrivateBytes(c.Pid)
	if err != nil {
		return err
	}
	threads, descriptors := entries(fmt.Sprintf("/proc/%d/task", c.Pid)), entries(fmt.Sprintf("/proc/%d/fd", c.ShimPid))
	files, err := openFiles(c.ShimPid)
	if err != nil {
		return err
	}
	if err := b.remove(ctx, c); err != nil {
		return err
	}
	available, err := proc.AvailableMemory()
	if err != nil {
		return err
	}
	const perClone = 3 << 20 // of the kernel and the shim; twice the goal
	pids, err := numberIn("/proc/sys/kernel/pid_max")
	if err != nil {
		return err
	}
	neighbours, err := numberIn("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
	if err != nil {
		return err
	}
	n := int64(b.many)
	switch {
	case n*(private+perClone) > available*9/10:
		return fmt.Errorf("%d clones want some %d MB, and %d MB are available", n, n*(private+perClone)>>20, available>>20)
	case n*int64(threads) > pids*9/10:
		return fmt.Errorf("%d clones have %d threads, and kernel.pid_max is %d", n, n*int64(threads), pids)
	case n >= bridgePorts:
		return fmt.Errorf("a bridge takes %d interfaces", bridgePorts)
	}
	b.note("before the burst: the shim has %d descriptors with one clone, and may have %d; net.ipv4.neigh.default.gc_thresh3 is %d", descriptors, files, neighbours)
	return nil
}

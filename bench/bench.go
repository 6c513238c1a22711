package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/bench/baseline"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// result is all that a run found out.
type result struct {
	Time   time.Time `json:"time"`
	Facts  []string  `json:"facts"`
	Rows   []row     `json:"rows"`
	Steps  []*steps  `json:"steps"`
	Notes  []string  `json:"notes"`
	Failed []string  `json:"failed,omitempty"`
}

type bench struct {
	options
	result
	svc      *api.Local
	runc     baseline.Runc
	subjects map[string]*subject
	restores map[string]*series // runc restore of a subject
}

// linger is longer than any part lets a template wait for its next clone.
const linger = "3m"

func open(ctx context.Context, o options) (*bench, error) {
	if err := os.Setenv(shim.LingerVariable, linger); err != nil {
		return nil, err
	}
	svc, err := api.OpenLocal(ctx, api.Config{Root: o.root, Run: o.place.run, CRIU: o.criu, Shim: o.shim, Bridge: o.bridge, Subnet: o.subnet})
	if err != nil {
		return nil, err
	}
	return &bench{options: o, svc: svc, runc: baseline.Runc{Dir: o.dir, CRIU: o.criu},
		subjects: make(map[string]*subject), restores: make(map[string]*series)}, nil
}

// part is something that can be measured alone.
type part struct {
	name string
	run  func(*bench, context.Context) error
}

func parts() []part {
	return []part{
		{"shell", (*bench).shell}, {"clone", (*bench).single}, {"command", (*bench).command}, {"response", (*bench).response},
		{"size", (*bench).size}, {"build", (*bench).build}, {"memory", (*bench).memory}, {"rate", (*bench).rate},
		{"burst", (*bench).largeBurst}, {"capture", (*bench).capture}, {"burst64", (*bench).burstBesideRunc},
	}
}

func partNames() []string {
	var out []string
	for _, p := range parts() {
		out = append(out, p.name)
	}
	return out
}

func checkParts(names []string) error {
	for _, n := range names {
		if !slices.Contains(partNames(), n) {
			return fmt.Errorf("there is no part %q; there are %s", n, strings.Join(partNames(), ", "))
		}
	}
	return nil
}

// partLimit is far above what a part takes.
const partLimit = 20 * time.Minute

// measure does the parts that are asked for. One that fails does not keep the others from being measured.
func (b *bench) measure(ctx context.Context) {
	for _, p := range parts() {
		if len(b.only) > 0 && !slices.Contains(b.only, p.name) {
			continue
		}
		start := time.Now()
		pctx, cancel := context.WithTimeoutCause(ctx, partLimit, fmt.Errorf("not done after %s", partLimit))
		err := p.run(b, pctx)
		cancel()
		if err != nil {
			b.Failed = append(b.Failed, p.name+": "+err.Error())
			err = b.clear()
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %.0f s\n", p.name, time.Since(start).Seconds())
		if err != nil {
			b.Failed = append(b.Failed, "clearing up after "+p.name+": "+err.Error())
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// clear removes every container, ours and runc's.
func (b *bench) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	errs := []error{b.runc.DeleteAll(ctx)}
	cs, err := b.svc.Containers(ctx, true)
	errs = append(errs, err)
	for _, c := range cs {
		if err := b.svc.Remove(ctx, c.ID, true); err != nil && snapshot.KindOf(err) != snapshot.KindNotFound {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close removes every container and ends every shim.
func (b *bench) close() error {
	err := b.clear()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(err, b.endShims(ctx), b.svc.Close())
}

// endShims ends all shims, and with them the templates. They have no containers any more.
func (b *bench) endShims(ctx context.Context) error {
	sockets, err := filepath.Glob(filepath.Join(b.place.run, "shims", "*.sock"))
	if err != nil {
		return err
	}
	var errs []error
	for _, socket := range sockets {
		if err := endShim(ctx, socket); err != nil {
			errs = append(errs, fmt.Errorf("end the shim at %s: %w", socket, err))
		}
	}
	return errors.Join(errs...)
}

// endShim ends the shim that listens on a socket, and waits until it is gone.
func endShim(ctx context.Context, socket string) error {
	c, err := shim.Dial(ctx, socket)
	if snapshot.KindOf(err) == snapshot.KindUnreachable {
		return nil
	} else if err != nil {
		return err
	}
	p, err := sys.OpenProcess(c.Pid())
	if errors.Is(err, syscall.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer p.Close()
	// It answered a moment ago; but if it has ended since, its number may be another's.
	if again, err := shim.Dial(ctx, socket); err != nil || again.Pid() != c.Pid() {
		return nil
	}
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return p.Exited(ctx)
}

// each does n things, some of them at once.
func each(n, parallel int, do func(i int) error) error {
	errs := make([]error, n)
	turns := make(chan struct{}, max(1, parallel))
	var wg sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/bench/baseline"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

const port = 8080

// subject is a program that was captured once, by us and by runc.
type subject struct {
	name   string // of the snapshot
	theirs baseline.Container
	mb     float64 // memory of the program
	forks  bool    // the template engine can clone it
}

// program is what a subject runs.
type program struct {
	rootfs string
	args   []string
	serves bool // HTTP on the port
	alone  bool // runc is not measured with it
}

// The subjects.
const (
	subjectShell   = "bench-shell"
	subjectPython  = "bench-python" // with numpy, 177 MB
	subjectNode    = "bench-node"
	subjectThreads = "bench-threads" // a Python server of 12 threads
	subjectSmall   = "bench-small"   // of two programs that differ in their size alone
	subjectLarge   = "bench-large"
)

func (b *bench) program(name string) program {
	server := func(args ...string) []string { return append([]string{"python3", "/srv/server.py"}, args...) }
	switch name {
	case subjectShell:
		return program{rootfs: b.busybox, args: []string{"sh", "-c", "while :; do sleep 1000; done"}}
	case subjectPython:
		return program{rootfs: b.python, args: server("--mb", "150"), serves: true}
	case subjectNode:
		// Without a profile of system calls, as runc has it here, Node uses io_uring, which CRIU cannot capture.
		return program{rootfs: b.full, args: []string{"node", "/srv/server.mjs"}, serves: true, alone: true}
	case subjectThreads: // the first thread and 11 of the pool; numpy starts none of its own
		return program{rootfs: b.python, args: append([]string{"/usr/bin/env", "OPENBLAS_NUM_THREADS=1"}, server("--mb", "8", "--threads", "11")...), serves: true}
	case subjectSmall:
		return program{rootfs: b.python, args: server("--mb", fmt.Sprint(b.sizes[0])), serves: true}
	default:
		return program{rootfs: b.python, args: server("--mb", fmt.Sprint(b.sizes[1])), serves: true}
	}
}

// subject returns a subject, which is captured when it is first needed.
func (b *bench) subject(ctx context.Context, name string) (*subject, error) {
	if s := b.subjects[name]; s != nil {
		return s, nil
	}
	s, err := b.captured(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("capture %s: %w", name, err)
	}
	b.subjects[name] = s
	return s, nil
}

func (b *bench) captured(ctx context.Context, name string) (*subject, error) {
	p := b.program(name)
	theirs, err := b.start(ctx, name, p)
	if err != nil {
		return nil, err
	}
	r := api.SnapshotRequest{Container: name, Name: name, Replace: true}
	if p.serves {
		r.Ready, r.Warm = fmt.Sprintf("http://:%d/healthz", port), 3
	}
	got, err := b.svc.Snapshot(ctx, r)
	if err != nil {
		return nil, err
	}
	if !p.alone {
		if _, err := b.runc.Checkpoint(ctx, theirs); err != nil {
			return nil, err
		}
	}
	s := &subject{name: name, theirs: theirs, mb: float64(got.Snapshot.Config.Memory.Pages*int64(os.Getpagesize())) / 1e6, forks: true}
	for _, v := range got.Snapshot.Config.Engines {
		if v.Engine == snapshot.EngineTemplate && !v.OK {
			s.forks = false
			b.note("%s is not cloned by the template engine: %s", name, strings.Join(v.Why, "; "))
		}
	}
	err = b.svc.Remove(ctx, name, true)
	if !p.alone {
		err = errors.Join(err, b.runc.Delete(ctx, name))
	}
	return s, err
}

// start starts a program twice, as our container and, unless it is ours alone, as runc's, of the same name.
func (b *bench) start(ctx context.Context, name string, p program) (baseline.Container, error) {
	ready := func(context.Context, int) error { return nil }
	ours, err := b.svc.Run(ctx, api.RunRequest{Name: name, Rootfs: p.rootfs, Args: p.args})
	if err != nil {
		return baseline.Container{}, err
	}
	if p.serves {
		if _, err := answers(ctx, ours.Network.Address, time.Minute); err != nil {
			return baseline.Container{}, err
		}
		ready = baseline.Listens(port)
	}
	if p.alone {
		return baseline.Container{}, nil
	}
	return b.runc.Run(ctx, name, p.rootfs, p.args, ready)
}

func (b *bench) note(format string, args ...any) {
	b.Notes = append(b.Notes, fmt.Sprintf(format, args...))
}

// clone makes one clone by an engine.
func (b *bench) clone(ctx context.Context, s *subject, engine string) (*snapshot.Container, error) {
	cs, err := b.svc.Clone(ctx, api.CloneRequest{Snapshot: s.name, Count: 1, Engine: engine})
	if err != nil {
		return nil, err
	}
	return cs[0], nil
}

func (b *bench) remove(ctx context.Context, c *snapshot.Container) error {
	return b.svc.Remove(ctx, c.ID, true)
}

// warm has the template of a subject built, and everything else that only the first clone pays for.
func (b *bench) warm(ctx context.Context, s *subject, engines ...string) error {
	for _, e := range engines {
		c, err := b.clone(ctx, s, e)
		if err != nil {
			return err
		}
		if err := b.remove(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// engines are those that can clone a subject, the template engine first.
func (s *subject) engines() []string {
	if s.forks {
		return []string{snapshot.EngineTemplate, snapshot.EngineCRIU}
	}
	return []string{snapshot.EngineCRIU}
}

// restore measures runc restore once more.
func (b *bench) restore(ctx context.Context, s *subject) error {
	if b.restores[s.name] == nil {
		b.restores[s.name] = &series{}
	}
	took, err := b.runc.Restore(ctx, s.theirs, "restored")
	if err != nil {
		return err
	}
	b.restores[s.name].add(millis(took))
	return b.runc.Delete(ctx, "restored")
}

// restored returns what runc restore of a subject takes: as measured before in this run, or now.
func (b *bench) restored(ctx context.Context, s *subject) (*series, error) {
	for range b.rounds {
		if b.restores[s.name] != nil && len(b.restores[s.name].Values) >= b.rounds {
			break
		}
		if err := b.restore(ctx, s); err != nil {
			return nil, err
		}
	}
	return b.restores[s.name], nil
}

// cloneCommand times the command line as a user would.
func (b *bench) cloneCommand(ctx context.Context, s *subject, engine string) (float64, error) {
	const name = "bench-cli"
	c := exec.CommandContext(ctx, b.cli, "clone", s.name, "--name", name, "--engine", engine)
	c.Env = append(os.Environ(), "SNAPD_CTR_ROOT="+b.root, "SNAPD_CTR_RUN="+b.place.run, "SNAPD_CTR_CRIU="+b.criu, "SNAPD_CTR_SHIM="+b.shim,
		"SNAPD_CTR_BRIDGE="+b.bridge, "SNAPD_CTR_SUBNET="+b.subnet)
	start := time.Now()
	out, err := c.CombinedOutput()
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", c, err, out)
	}
	return millis(took), b.svc.Remove(ctx, name, true)
}

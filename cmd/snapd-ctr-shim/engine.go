package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/restore"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template"
)

// engine makes clones. The root file system of a clone is mounted at rootfs in its directory, or in its own mount namespace
// alone; what else is mounted for it in ours lies below mounts there. A clone that cannot be completed leaves nothing behind.
type engine interface {
	Clone(ctx context.Context, id string, r shim.CloneRequest) (*restore.Result, error)
}

// engines makes each clone by the engine that its request names. Where that is left open it is the template engine, and
// CRIU where that one cannot.
type engines struct {
	criu     *restore.Engine
	template *template.Engine
	log      *slog.Logger
}

func (e *engines) Clone(ctx context.Context, id string, r shim.CloneRequest) (*restore.Result, error) {
	if r.Engine == snapshot.EngineCRIU {
		return e.criu.Clone(ctx, id, r)
	}
	c, err := e.template.Clone(ctx, id, r)
	if err == nil {
		return &restore.Result{Engine: snapshot.EngineTemplate, Pid: c.Pid, Running: c.Running, Phases: c.Phases, Network: c.Network,
			Stdout: c.Stdout, Stderr: c.Stderr, Release: c.Release}, nil
	}
	if r.Engine == snapshot.EngineTemplate || ctx.Err() != nil {
		return nil, err
	}
	if k := snapshot.KindOf(err); k != snapshot.KindUncloneable && k != snapshot.KindUnsupported {
		e.log.Warn("the template engine failed, and criu makes the clone", "error", err)
	}
	// The clone that failed may have written files.
	for _, name := range []string{"upper", "work"} {
		if left := os.RemoveAll(filepath.Join(shim.ContainerDir(e.criu.Root, id), name)); left != nil {
			return nil, errors.Join(err, left)
		}
	}
	got, second := e.criu.Clone(ctx, id, r)
	if second != nil {
		return nil, second
	}
	got.Why = err.Error()
	return got, nil
}

// Close ends the templates.
func (e *engines) Close() error { return e.template.Close() }

// memoryVariable is "eager" when clones are to have all of their memory before they run.
const memoryVariable = "SNAPD_CTR_MEMORY"

// guardArg, the only argument, makes this program the guard of a shim's clones. Its socket is at guardFD.
const (
	guardArg    = "guard"
	guardFD     = 3
	guardLinger = 2 * time.Second // a clone is killed in milliseconds
)

// newEngines returns the engines. Clones are children of one thread, which lives as long as the shim: they get SIGKILL
// when it ends.
func newEngines(paths shim.Paths, bridge sandbox.Bridge, log *slog.Logger) *engines {
	launch := sys.NewThread().Do
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	e := &engines{
		criu: &restore.Engine{Tool: criu.Tool{Path: paths.CRIU, Launch: launch}, Root: paths.Root, Bridge: bridge},
		template: &template.Engine{Stub: template.StubOf(self), Check: checkHost, Root: paths.Root, Bridge: bridge, Launch: launch, Log: log, Slots: slotsWanted(log),
			Sweep: func(c snapshot.Container) error {
				ctx, cancel := context.WithTimeout(context.Background(), sweepTimeout)
				defer cancel()
				return shim.SweepHost(ctx, paths, c)
			}},
		log: log,
	}
	if os.Getenv(memoryVariable) == "eager" {
		return e
	}
	guard, err := startGuard()
	if err != nil {
		log.Warn("clones get all their memory before they run", "error", err)
		return e
	}
	e.criu.Guard, e.criu.Lazy = guard, true
	return e
}

// slotsVariable is how many sandboxes a shim with a template keeps ready.
const (
	slotsVariable = "SNAPD_CTR_SLOTS"
	defaultSlots  = 8
)

// sweepTimeout is how long it may take to end what is left of a container whose shim was killed.
const sweepTimeout = 10 * time.Second

func slotsWanted(log *slog.Logger) int {
	v := os.Getenv(slotsVariable)
	if v == "" {
		return defaultSlots
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		log.Warn("not a number of sandboxes", "variable", slotsVariable, "value", v)
		return defaultSlots
	}
	return n
}

func startGuard() (*sys.Guard, error) {
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", guardArg)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signal of a terminal is for it
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	go func() { _ = cmd.Wait() }()
	return sys.NewGuard(ours), nil
}

func guard([]string) error {
	return sys.GuardOthers(os.NewFile(guardFD, "guard"), guardLinger)
}

// Package restore is the engine "criu": it makes a clone by having CRIU restore a snapshot's images into a sandbox made
// for it. It works for everything that CRIU can restore.
//
// It runs inside the shim, whose child every clone becomes and in whose mount namespace the clone's root file system is
// assembled.
package restore

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/pager"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// Engine clones snapshots.
type Engine struct {
	Tool   criu.Tool
	Root   string // persistent state
	Bridge sandbox.Bridge

	// Lazy has clones run before their memory is there. The thread that starts CRIU must then live as long as the
	// process (see criu.Tool.Launch): a clone whose pager is gone has holes in its memory, and dies with it.
	Lazy  bool
	Guard *sys.Guard // keeps such a clone from running on before that

	mu     sync.Mutex
	pagers map[string]*pager.Pager // by images directory; nil where a snapshot's images do not allow it
}

// Result is a running clone.
type Result struct {
	Engine  string
	Why     string    // why it was not another engine, where that was left open
	Pid     int       // init, our child
	Running time.Time // when all its threads were running
	Phases  []snapshot.Phase
	Network snapshot.Network
	Stdout  *os.File // read ends of the clone's output
	Stderr  *os.File
	TTY     *os.File       // the terminal's master where the container had one, else nil
	Memory  *pager.Session // serves the clone's memory; nil when all of it was there from the start

	// Release takes back all that was made for the clone. It is called once, when the clone's init has been reaped.
	Release func(context.Context) error
}

// Clone restores the snapshot into the container id, whose directory is prepared. A clone that cannot be completed
// leaves nothing behind.
func (e *Engine) Clone(ctx context.Context, id string, r shim.CloneRequest) (*Result, error) {
	dir := shim.ContainerDir(e.Root, id)
	s := &session{Engine: e, id: id, dir: dir, work: filepath.Join(dir, "criu"), r: r}
	if e.Lazy {
		if p, err := e.pager(r.Images); err == nil && p != nil {
			defer p.Busy()()
		}
	}
	s.run = snapshot.NewExecution(snapshot.CloneMachine(), s.actions())
	err := s.run.Do(ctx)
	s.closeOurEnds()
	if err != nil {
		return nil, err
	}
	s.out.Running = time.Now()
	s.out.Engine, s.out.Phases, s.out.Release = snapshot.EngineCRIU, s.run.Phases, s.release
	// The undos live as long as the clone. This is all that they need of what it was made of.
	s.r, s.externals = shim.CloneRequest{Record: s.r.Record}, nil
	return &s.out, nil
}

// session is one clone being made.
type session struct {
	*Engine
	id  string
	dir string
	r   shim.CloneRequest
	out Result
	run *snapshot.Execution

	netns     *sandbox.Netns // nil on the host's network
	cgroup    *sandbox.Cgroup
	born      bool       // the clone's processes are born in its cgroup
	work      string     // CRIU's work directory
	externals []string   // mounts, in CRIU's restore syntax
	write     []*os.File // the clone's ends of its output pipes
	terminal  *os.File   // the clone's end of the terminal that takes the place of one of the captured host, nil without
}

func (s *session) actions() snapshot.Actions {
	return snapshot.Actions{
		snapshot.EffectRootfs:      s.rootfs,
		snapshot.EffectUnmount:     s.unmount,
		snapshot.EffectCgroup:      s.makeCgroup,
		snapshot.EffectRmCgroup:    s.rmCgroup,
		snapshot.EffectNetns:       s.makeNetns,
		snapshot.EffectRmNetns:     s.rmNetns,
		snapshot.EffectMounts:      s.mounts,
		snapshot.EffectRmMounts:    s.rmMounts,
		snapshot.EffectMemory:      s.memory,
		snapshot.EffectCloseMemory: s.closeMemory,
		snapshot.EffectStdio:       s.stdio,
		snapshot.EffectCloseStdio:  s.closeStdio,
		snapshot.EffectRestore:     s.restore,
		snapshot.EffectKill:        s.kill,
	}
}

func (s *session) rootfsDir() string { return filepath.Join(s.dir, "rootfs") }
func (s *session) mountsDir() string { return filepath.Join(s.dir, "mounts") }

func (s *session) rootfs(context.Context) error {
	err := sandbox.MountOverlay(s.rootfsDir(), s.r.Lower, filepath.Join(s.dir, "upper"), filepath.Join(s.dir, "work"))
	if err != nil {
		return err
	}
	return sandbox.PrepareRoot(s.rootfsDir(), s.r.Config.Mounts)
}

func (s *session) unmount(context.Context) error { return sandbox.Unmount(s.rootfsDir()) }

func (s *session) makeCgroup(context.Context) error {
	// The limits come last: CRIU is born in the cgroup, and they are not for it.
	c, err := sandbox.NewCgroup(s.r.Record.Cgroup, snapshot.Limits{})
	s.cgroup = c
	return err
}

func (s *session) rmCgroup(ctx context.Context) error {
	if s.cgroup == nil {
		return nil
	}
	return s.cgroup.Destroy(ctx)
}

func (s *session) mounts(context.Context) error {
	files, err := sandbox.WriteFiles(s.dir, s.r.Record.Hostname, s.out.Network)
	if err != nil {
		return err
	}
	s.externals, err = sandbox.PrepareMounts(s.mountsDir(), s.r.Config.Mounts, s.r.Contents,
		sandbox.PrepareOptions{Files: files, CgroupPath: s.r.Record.Cgroup})
	return err
}

func (s *session) rmMounts(context.Context) error { return sandbox.RemoveMounts(s.mountsDir()) }

func (s *session) restore(ctx context.Context) error {
	fds, closers, err := s.inherit()
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	got, err := s.tool().Restore(ctx, criu.RestoreOptions{
		Images: s.r.Images, Work: s.work, Root: s.rootfsDir(),
		External: s.externals, Inherit: fds, TCPClose: true, Lazy: s.out.Memory != nil,
		// No hardware breakpoints: arming them costs 10 ms in virtual machines, and system call stops do the same.
		Env:     []string{"CRIU_FAULT=130"},
		PidFile: os.Getenv(pidFileVariable),
		OnSetup: s.onSetup,
		OnReady: s.onReady,
		OnTTY:   func(master *os.File) error { s.out.TTY = master; return nil },
	})
	if err != nil {
		return err
	}
	s.out.Pid = got.Pid
	s.run.Phases = append(s.run.Phases, got.Phases...)
	// The clone has its own of these by now, and the kernel copies all that are left here for each clone to come.
	return s.rmMounts(ctx)
}

// pidFileVariable names the file to which a test wants CRIU's process id written.
const pidFileVariable = "SNAPD_CTR_CRIU_PIDFILE"

// onSetup places the clone's first process in its cgroup, before it has any memory, so that all of it is charged there,
// where it was not born in it.
func (s *session) onSetup(pid int) error {
	if !s.born {
		if err := s.cgroup.Place(pid); err != nil {
			return err
		}
	}
	return fault.Point("clone.setup")
}

// onReady makes the last changes before the clone's first instruction.
func (s *session) onReady(pid int) error {
	if err := s.cgroup.SetLimits(s.r.Record.Limits); err != nil {
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "limit", On: s.r.Record.Name, Err: err,
			Hint: "the clone's memory is that of the snapshot from its first instant: give it at least as much"}
	}
	if err := sys.SetHostname(pid, s.r.Record.Hostname); err != nil {
		return err
	}
	return fault.Point("clone.ready")
}

// kill ends a clone that was restored when something after it failed, and reaps it.
func (s *session) kill(context.Context) error {
	if s.out.Pid == 0 {
		return nil
	}
	return sys.KillAndReap(s.out.Pid)
}

func (s *session) release(ctx context.Context) error {
	s.out.Pid = 0 // reaped: another process may have the number by now
	return s.run.Undo(ctx)
}

// Package restore is the engine "criu": it makes a clone by having CRIU restore a snapshot's images into a sandbox made
// for it. It works for everything that CRIU can restore.
//
// It runs inside the shim, whose child every clone becomes and in whose mount namespace the clone's root file system is
// assembled.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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

// Name is the name of the engine.
const Name = "criu"

// Engine clones snapshots.
type Engine struct {
	Tool   criu.Tool
	Root   string // persistent state
	Bridge sandbox.Bridge

	// Lazy has clones run before their memory is there. The thread that starts CRIU must then live as long as the
	// process (see criu.Tool.Launch): a clone whose pager is gone has holes in its memory, and dies with it.
	Lazy bool

	mu     sync.Mutex
	pagers map[string]*pager.Pager // by images directory; nil where a snapshot's images do not allow it
}

// Result is a running clone. The caller owns what it holds and closes it when the clone has ended.
type Result struct {
	Pid     int // init, our child
	Phases  []snapshot.Phase
	Network snapshot.Network
	Netns   *sandbox.Netns // nil on the host's network
	Cgroup  *sandbox.Cgroup
	Stdout  *os.File // read ends of the clone's output
	Stderr  *os.File
	TTY     *os.File       // the terminal's master where the container had one, else nil
	Memory  *pager.Session // serves the clone's memory; nil when all of it was there from the start
}

// Clone restores the snapshot into the container id, whose directory is prepared. A clone that cannot be completed
// leaves nothing behind.
func (e *Engine) Clone(ctx context.Context, id string, r shim.CloneRequest) (*Result, error) {
	dir := shim.ContainerDir(e.Root, id)
	s := &session{Engine: e, id: id, dir: dir, work: filepath.Join(dir, "criu"), r: r}
	m := snapshot.CloneMachine()
	err := snapshot.Execute(ctx, m, snapshot.Actions{
		snapshot.EffectRootfs:      s.rootfs,
		snapshot.EffectUnmount:     s.unmount,
		snapshot.EffectCgroup:      s.cgroup,
		snapshot.EffectRmCgroup:    s.rmCgroup,
		snapshot.EffectNetns:       s.netns,
		snapshot.EffectRmNetns:     s.rmNetns,
		snapshot.EffectMounts:      s.mounts,
		snapshot.EffectRmMounts:    s.rmMounts,
		snapshot.EffectMemory:      s.memory,
		snapshot.EffectCloseMemory: s.closeMemory,
		snapshot.EffectStdio:       s.stdio,
		snapshot.EffectCloseStdio:  s.closeStdio,
		snapshot.EffectRestore:     s.restore,
		snapshot.EffectKillRestore: s.kill,
	}, s.timed)
	s.closeOurEnds()
	if err != nil {
		return nil, err
	}
	return &s.out, nil
}

// session is one clone being made.
type session struct {
	*Engine
	id  string
	dir string
	r   shim.CloneRequest
	out Result

	work      string     // CRIU's work directory
	externals []string   // mounts, in CRIU's restore syntax
	write     []*os.File // the clone's ends of its output pipes
}

func (s *session) timed(e snapshot.Effect, undoing bool, do func() error) error {
	if undoing {
		return do()
	}
	if err := fault.Point("clone." + string(e)); err != nil {
		return err
	}
	start := time.Now()
	err := do()
	s.out.Phases = append(s.out.Phases, snapshot.Phase{Name: string(e), MS: float64(time.Since(start).Microseconds()) / 1000})
	if err != nil {
		return err
	}
	return fault.Point("clone.after-" + string(e))
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

func (s *session) cgroup(context.Context) error {
	c, err := sandbox.NewCgroup(s.r.Record.Cgroup, s.r.Record.Limits)
	s.out.Cgroup = c
	return err
}

func (s *session) rmCgroup(ctx context.Context) error {
	if s.out.Cgroup == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return errors.Join(s.out.Cgroup.Kill(ctx), s.out.Cgroup.Remove())
}

// netns makes the clone's network namespace. On a bridge the clone gets an address of its own; addresses that its
// processes are bound to come along as aliases.
func (s *session) netns(context.Context) error {
	cfg := &s.r.Config
	s.out.Network = s.r.Record.Network
	if cfg.NetnsKey == "" {
		return nil
	}
	ns, err := sandbox.NewNetns()
	if err != nil {
		return err
	}
	s.out.Netns = ns
	if s.r.Record.Network.Mode != "bridge" {
		return nil
	}
	var bound []snapshot.Listener
	for _, l := range cfg.Listeners {
		if slices.Contains(cfg.Network.Aliases, l.Address) {
			bound = append(bound, l)
		}
	}
	s.out.Network, err = s.Bridge.Attach(ns, s.id, cfg.Network.Aliases, bound)
	return err
}

func (s *session) rmNetns(context.Context) error {
	var err error
	if s.out.Netns != nil {
		err = s.out.Netns.Close()
	}
	if s.r.Record.Network.Mode == "bridge" {
		err = errors.Join(err, s.Bridge.Release(s.id))
	}
	return err
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

func (s *session) stdio(context.Context) error {
	for _, read := range []**os.File{&s.out.Stdout, &s.out.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("pipe for the output of %s: %w", s.id, err)
		}
		*read = r
		s.write = append(s.write, w)
	}
	return nil
}

func (s *session) closeStdio(context.Context) error {
	for _, f := range []*os.File{s.out.Stdout, s.out.Stderr, s.out.TTY} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

// closeOurEnds closes the ends that only the clone may hold: its output ends when it does.
func (s *session) closeOurEnds() {
	for _, f := range s.write {
		f.Close()
	}
}

// inherit lists the descriptors that the clone gets from us in place of those which the container had from outside.
func (s *session) inherit() (fds []criu.InheritFD, closers []io.Closer, err error) {
	seen := make(map[string]bool)
	add := func(key string, f *os.File) {
		if key != "" && !seen[key] {
			seen[key] = true
			fds = append(fds, criu.InheritFD{Key: key, File: f})
		}
	}
	cfg := &s.r.Config
	if s.out.Netns != nil {
		add(cfg.NetnsKey, s.out.Netns.File())
	}
	for i, f := range s.write {
		add(cfg.Stdio[i+1], f)
	}
	if cfg.Stdio[0] != "" && !seen[cfg.Stdio[0]] {
		// The clone's input is at its end from the start: nobody writes to it.
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		w.Close()
		add(cfg.Stdio[0], r)
		closers = append(closers, r)
	}
	return fds, closers, nil
}

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
	got, err := s.Tool.Restore(ctx, criu.RestoreOptions{
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
	s.out.Phases = append(s.out.Phases, got.Phases...)
	return nil
}

// pidFileVariable names the file to which a test wants CRIU's process id written.
const pidFileVariable = "SNAPD_CTR_CRIU_PIDFILE"

// onSetup places the clone's first process in its cgroup, before it has any memory, so that all of it is charged there.
func (s *session) onSetup(pid int) error {
	if err := s.out.Cgroup.Place(pid); err != nil {
		return err
	}
	return fault.Point("clone.setup")
}

// onReady makes the last changes before the clone's first instruction.
func (s *session) onReady(pid int) error {
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

package template

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// Engine clones snapshots by forking their templates, which it builds when they are first needed.
type Engine struct {
	Stub   string // path of the stub
	Root   string // persistent state
	Bridge sandbox.Bridge
	// Launch runs a function on the thread whose children templates and clones are. They die with it.
	Launch func(func() error) error
	Log    *slog.Logger
	// Slots is how many sandboxes are kept ready for clones of each snapshot that has a template.
	Slots int
	// Sweep takes away what a dead shim left of a container on the host.
	Sweep func(snapshot.Container) error
	// Check says whether this host has what the engine needs; it is asked before the first template is built. An error of
	// kind unsupported is its last word. It may be nil.
	Check func(context.Context) error

	mu        sync.Mutex
	templates map[string]*resident // by the directory of the images

	fitness sync.Mutex
	fit     bool  // Check has found nothing missing
	unfit   error // or this
}

// resident is the place of one snapshot's template.
type resident struct {
	snapshot string
	gone     chan struct{} // closed when it is no longer a place for templates
	pinned   atomic.Bool   // the template is to be there also when nobody asks for clones
	clones   atomic.Int64

	mu        sync.Mutex // held while the template is built
	template  *Template
	blueprint *sandbox.Blueprint
	slots     atomic.Pointer[slots] // nil: none are made
	took      time.Duration
	built     time.Time
}

// Clone is a running clone.
type Clone struct {
	Pid     int       // init, our child
	Running time.Time // when all its threads were running
	Phases  []snapshot.Phase
	Network snapshot.Network
	Stdout  *os.File // read ends of the clone's output
	Stderr  *os.File

	// Release takes back all that was made for the clone. It is called once, when the clone's init has been reaped.
	Release func(context.Context) error
}

// Clone forks the snapshot's template into the container id, whose directory is prepared. A clone that cannot be completed
// leaves nothing behind.
func (e *Engine) Clone(ctx context.Context, id string, r shim.CloneRequest) (*Clone, error) {
	s := &session{Engine: e, id: id, dir: shim.ContainerDir(e.Root, id), r: r}
	s.run = snapshot.NewExecution(snapshot.TemplateCloneMachine(), s.actions())
	err := s.run.Do(ctx)
	s.closeHandedOver()
	if slots := s.slots(); slots != nil {
		if s.slot == nil && err != nil {
			s.slot = slots.take(id) // it failed before it came to that
		}
		slots.nudge()
	}
	if err != nil && s.slot != nil {
		err = errors.Join(err, s.slot.discard("")) // what of it the clone had taken over is taken back already
	}
	if err != nil {
		return nil, err
	}
	s.out.Phases, s.out.Release = s.run.Phases, s.release
	s.r = shim.CloneRequest{Record: s.r.Record} // all that the undos need of it, as long as the clone lives
	return &s.out, nil
}

func (e *Engine) build(ctx context.Context, r shim.CloneRequest, t *resident) (err error) {
	began := time.Now()
	parent := filepath.Join(e.Root, "templates")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	dir, lock, err := ownDir(parent)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	doors, err := sandbox.Hierarchies()
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	t.template, err = Build(ctx, Source{Config: &r.Config, Lower: r.Lower, Images: r.Images},
		Options{Stub: e.Stub, Dir: dir, Launch: e.Launch, Cgroups: doors})
	if err != nil {
		if left := os.RemoveAll(dir); left != nil {
			err = errors.Join(err, left)
		}
		return err
	}
	t.template.lock = lock
	if t.blueprint == nil {
		if t.blueprint, err = sandbox.NewBlueprint(r.Lower, r.Config.Mounts, r.Contents, t.template.plan.ahead); err != nil {
			err = errors.Join(err, t.template.Close())
			t.template = nil
			return err
		}
	}
	t.built = time.Now()
	t.took = t.built.Sub(began)
	if t.slots.Load() == nil && e.Slots > 0 {
		t.slots.Store(newSlots(e, r, t, e.Slots))
	}
	return nil
}

// ownDir makes a directory for a template, and takes the lock that says that it is somebody's.
func ownDir(parent string) (dir string, lock *sys.FileLock, err error) {
	making, err := os.MkdirTemp(parent, ".making-")
	if err != nil {
		return "", nil, err
	}
	if lock, err = sys.TryLockFile(filepath.Join(making, LockName)); err == nil {
		dir = filepath.Join(parent, DirPrefix+strings.TrimPrefix(filepath.Base(making), ".making-"))
		if err = os.Rename(making, dir); err == nil {
			return dir, lock, nil
		}
		lock.Close()
	}
	return "", nil, errors.Join(err, os.RemoveAll(making))
}

// The directory of a template has a lock, of this name, that is held while the template lives.
const (
	DirPrefix = "template-"
	LockName  = "lock"
)

// Close ends all templates. Clones live on.
func (e *Engine) Close() error {
	e.mu.Lock()
	templates := e.templates
	e.templates = nil
	e.mu.Unlock()
	var errs []error
	for _, t := range templates {
		_, err := t.end()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// session is one clone being made.
type session struct {
	*Engine
	id  string
	dir string
	r   shim.CloneRequest
	out Clone
	run *snapshot.Execution

	resident *resident
	parent   *Template // its template when the clone was asked for
	slot     *session  // what was made ahead for this one; nil: nothing
	used     *network  // that it is to have; nil: a new one, or what there is
	ended    bool      // the clone has run, and has ended
	cgroup   *sandbox.Cgroup
	doors    []*os.File
	netns    *sandbox.Netns // nil on the host's network
	mounts   *sandbox.DetachedMounts
	spare    *sandbox.SpareRoot // its root, for another one when it has ended; nil where that is not possible
	theirs   [3]*os.File        // the clone's ends of its input and output
}

func (s *session) actions() snapshot.Actions {
	return snapshot.Actions{
		snapshot.EffectTemplate:   s.template,
		snapshot.EffectCgroup:     s.makeCgroup,
		snapshot.EffectRmCgroup:   s.rmCgroup,
		snapshot.EffectNetns:      s.makeNetns,
		snapshot.EffectRmNetns:    s.rmNetns,
		snapshot.EffectMounts:     s.makeMounts,
		snapshot.EffectRmMounts:   s.rmMounts,
		snapshot.EffectStdio:      s.stdio,
		snapshot.EffectCloseStdio: s.closeStdio,
		snapshot.EffectRestore:    s.fork,
		snapshot.EffectKill:       s.kill,
	}
}

func (s *session) template(ctx context.Context) (err error) {
	if s.resident, s.parent, err = s.Engine.resident(ctx, s.r); err != nil {
		return err
	}
	if slots := s.slots(); slots != nil {
		s.slot = slots.take(s.id)
	}
	if s.slot == nil && !missing(filepath.Join(s.dir, "upper")) { // it was claimed, and its shim, or its place, is gone
		return s.Sweep(s.r.Record)
	}
	return nil
}

// slots returns where sandboxes for the clone are made ahead, nil where none are.
func (s *session) slots() *slots {
	if s.resident == nil {
		s.resident = s.place(s.r)
	}
	return s.resident.slots.Load()
}

func (s *session) makeCgroup(context.Context) (err error) {
	if s.slot == nil {
		if s.cgroup, err = sandbox.NewCgroup(s.r.Record.Cgroup, s.r.Record.Limits); err != nil {
			return err
		}
		s.doors, err = s.cgroup.Entrances()
		return err
	}
	s.cgroup, s.doors = s.slot.cgroup, s.slot.doors
	return s.cgroup.SetLimits(s.r.Record.Limits)
}

func (s *session) rmCgroup(ctx context.Context) error {
	if s.cgroup == nil {
		return nil
	}
	return s.cgroup.Destroy(ctx)
}

func (s *session) makeNetns(context.Context) (err error) {
	if s.slot != nil {
		s.netns, s.out.Network = s.slot.netns, s.slot.out.Network
		return nil
	}
	slots := s.slots()
	if s.used == nil && slots != nil {
		s.used = slots.again()
	}
	if s.used != nil {
		if s.out.Network, err = slots.give(s.used, s.id); err == nil {
			s.netns = s.used.ns
			return nil
		}
		s.Log.Warn("a network could not be used again", "error", err)
	}
	s.netns, s.out.Network, err = s.Bridge.NewNetwork(s.id, &s.r.Config, s.r.Record.Network)
	return err
}

func (s *session) rmNetns(context.Context) error {
	if slots := s.slots(); s.ended && s.netns != nil && slots != nil && slots.keep(network{s.id, s.netns, s.out.Network}) {
		return nil
	}
	var err error
	if s.netns != nil {
		err = s.netns.Close()
	}
	if s.r.Record.Network.Mode == "bridge" {
		err = errors.Join(err, s.Bridge.Free(s.id, s.out.Network.Address))
	}
	return err
}

func (s *session) makeMounts(context.Context) error {
	files, err := sandbox.FileContents(s.r.Record.Hostname, s.out.Network)
	if err != nil {
		return err
	}
	if s.slot != nil {
		s.mounts, s.spare, s.slot.spare = s.slot.mounts, s.slot.spare, nil
		if s.spare != nil {
			s.spare.Follow(filepath.Join(s.dir, "upper"), filepath.Join(s.dir, "work"))
		}
		return s.resident.blueprint.Rewrite(s.mounts, files)
	}
	p := sandbox.Parts{Upper: filepath.Join(s.dir, "upper"), Work: filepath.Join(s.dir, "work"), Files: files, CgroupPath: s.r.Record.Cgroup, Netns: s.netns}
	slots := s.slots()
	if slots != nil {
		s.spare = slots.rootAgain(p.Upper, p.Work)
		p.Root = s.spare
	}
	s.mounts, err = s.resident.blueprint.Make(p)
	switch {
	case err != nil && s.spare != nil:
		err = errors.Join(err, s.spare.Close())
		s.spare = nil
	case err == nil && s.spare == nil && slots != nil && slots.apart:
		s.spare, _ = s.mounts.SpareRoot(p) // or it is not used again
	}
	return err
}

// rmMounts keeps the root for another clone, if it can be used again.
func (s *session) rmMounts(ctx context.Context) error {
	err := s.closeMounts(ctx)
	spare := s.spare
	s.spare = nil
	if spare == nil {
		return err
	}
	if slots := s.slots(); s.ended && slots != nil && slots.keepRoot(spare, filepath.Join(s.dir, "upper")) {
		return err
	}
	return errors.Join(err, spare.Close())
}

// closeMounts has nothing to do for mounts that a clone has taken: they go with its mount namespace.
func (s *session) closeMounts(context.Context) error {
	if s.mounts == nil {
		return nil
	}
	m := s.mounts
	s.mounts = nil
	return m.Close()
}

func (s *session) stdio(context.Context) (err error) {
	// The clone's input is at its end from the start: nobody writes to it.
	in, nobody, err := os.Pipe()
	if err != nil {
		return err
	}
	nobody.Close()
	s.theirs[0] = in
	for i, ours := range []**os.File{&s.out.Stdout, &s.out.Stderr} {
		if *ours, s.theirs[i+1], err = os.Pipe(); err != nil {
			return fmt.Errorf("pipe for the output of %s: %w", s.id, err)
		}
	}
	return nil
}

func (s *session) closeStdio(context.Context) error {
	for _, f := range []*os.File{s.out.Stdout, s.out.Stderr} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

func (s *session) fork(ctx context.Context) error {
	b := Birth{Hostname: s.r.Record.Hostname, Stdin: s.theirs[0], Stdout: s.theirs[1], Stderr: s.theirs[2], Cgroups: s.doors, Mounts: s.mounts.Files()}
	if s.netns != nil {
		b.Netns = s.netns.File()
	}
	pid, phases, err := s.parent.Fork(ctx, b)
	if err != nil && ctx.Err() == nil && s.parent.dying() {
		if _, s.parent, err = s.Engine.resident(ctx, s.r); err != nil {
			return err
		}
		pid, phases, err = s.parent.Fork(ctx, b)
	}
	if err != nil {
		return err
	}
	s.out.Running = time.Now()
	s.resident.clones.Add(1)
	s.out.Pid = pid
	s.run.Phases = append(s.run.Phases, phases...)
	return nil
}

// closeHandedOver closes what the clone has its own of, or nobody will.
func (s *session) closeHandedOver() {
	for _, f := range append(s.doors, s.theirs[:]...) {
		if f != nil {
			f.Close()
		}
	}
	s.doors = nil
	_ = s.closeMounts(context.Background())
}

// kill ends a clone when something after it failed, and reaps it.
func (s *session) kill(context.Context) error {
	if s.out.Pid == 0 {
		return nil
	}
	return sys.KillAndReap(s.out.Pid)
}

func (s *session) release(ctx context.Context) error {
	s.out.Pid = 0 // reaped: another process may have the number by now
	s.ended = true
	return s.run.Undo(ctx)
}

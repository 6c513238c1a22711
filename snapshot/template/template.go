package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// Limits of waiting. A template is built in a fraction of a second, and a clone forked in one of a millisecond, unless the
// machine is short of everything.
const (
	buildLimit = 60 * time.Second
	cloneLimit = 20 * time.Second
)

// Source is a snapshot that has been unpacked.
type Source struct {
	Config *snapshot.Config
	Lower  []string // directories of its root file system, topmost first
	Images string   // directory with CRIU's images
}

// Options say how templates are built.
type Options struct {
	Stub string // path of the stub
	Dir  string // an existing directory for one template's files, on a file system that can carry an overlay
	// Launch runs a function on the thread whose children templates and clones are to be. They die with it.
	Launch func(func() error) error
	// Cgroups is how many descriptors of its cgroups a clone is given.
	Cgroups int
}

// Template is the resident process of a snapshot.
type Template struct {
	Pid  int
	plan *plan
	talk conversation
	cmd  *exec.Cmd
	dir  string
	dead chan struct{} // closed when the process has ended
	turn sync.Mutex    // held for a command and its answer
	lock *sys.FileLock // of dir; nil in a test
}

// Build makes a template. A snapshot that the engine cannot clone is an error of kind not-cloneable, which says why.
func Build(ctx context.Context, src Source, o Options) (_ *Template, err error) {
	t := &Template{dir: o.Dir, dead: make(chan struct{})}
	if err := t.start(o); err != nil {
		return nil, err
	}
	built := false
	defer func() {
		if !built { // also where something panics
			err = errors.Join(err, t.Close())
		}
	}()
	h, err := t.greet(ctx, src, o)
	if err != nil {
		return nil, fmt.Errorf("start the template: %w", err)
	}
	images, err := criu.Open(src.Images)
	if err != nil {
		return nil, err
	}
	var reasons []string
	if t.plan, reasons, err = compile(images, src.Config, h); err != nil {
		return nil, err
	}
	if len(reasons) > 0 {
		return nil, &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "build template", On: src.Config.Source.Name,
			Err: errors.New(strings.Join(reasons, "; ")), Hint: "the engine criu clones it: --engine criu"}
	}
	if err := t.populate(ctx, src, h); err != nil {
		return nil, fmt.Errorf("build the template: %w", err)
	}
	built = true
	return t, nil
}

// start runs the stub.
func (t *Template) start(o Options) error {
	talk, theirs, err := newConversation()
	if err != nil {
		return err
	}
	defer theirs.Close()
	t.talk = talk
	t.cmd = &exec.Cmd{Path: o.Stub, Args: []string{"snapd-template"}, Env: []string{}, Dir: "/", ExtraFiles: []*os.File{theirs}}
	// A session of its own: no signal of a terminal is for it.
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := o.Launch(t.cmd.Start); err != nil {
		talk.c.Close()
		return stubError(o.Stub, err)
	}
	t.Pid = t.cmd.Process.Pid
	go func() {
		_ = t.cmd.Wait()
		close(t.dead)
	}()
	return nil
}

// greet hears what processor the stub runs on, and looks where it has its vdso.
func (t *Template) greet(ctx context.Context, src Source, o Options) (host, error) {
	b, err := t.talk.hear(ctx, buildLimit)
	if err != nil {
		return host{}, err
	}
	hi, err := unpack[hello](b)
	if err != nil {
		return host{}, fmt.Errorf("the stub's greeting: %w", err)
	}
	h := host{xsave: hi.layout(), cgroups: o.Cgroups, images: src.Images, rootfs: filepath.Join(o.Dir, "rootfs"), root: filepath.Join(o.Dir, "root")}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return host{}, os.NewSyscallError("getrlimit", err)
	}
	h.nofile = limit.Max
	if h.mappings, err = proc.MaxMappings(); err != nil {
		return host{}, err
	}
	h.noTimerIDs = sys.TryTimerRestoreIDs() != nil
	h.processors = sys.PossibleProcessors()
	h.nested = sys.TryNestedMounts() == nil
	maps, err := proc.Mappings(t.Pid)
	if err != nil {
		return host{}, err
	}
	for _, m := range maps {
		if m.Name == "[vdso]" || strings.HasPrefix(m.Name, "[vvar") {
			h.vdso = append(h.vdso, region{m.Start, m.End})
		}
	}
	if _, err = onePiece(h.vdso); err != nil {
		return host{}, err
	}
	code := h.vdso[len(h.vdso)-1]
	h.vdsoCode, err = proc.ReadMemory(t.Pid, code.start, int(code.end-code.start))
	return h, err
}

// populate has the stub make the template's memory.
func (t *Template) populate(ctx context.Context, src Source, h host) error {
	if err := os.MkdirAll(h.root, 0o700); err != nil {
		return err
	}
	if err := sandbox.MountOverlay(h.rootfs, src.Lower, filepath.Join(t.dir, "upper"), filepath.Join(t.dir, "work")); err != nil {
		return err
	}
	// The template has what it needs of it by then, in a mount namespace of its own.
	defer func() { _ = sandbox.Unmount(h.rootfs) }()
	memory, err := sys.Memfd("template")
	if err != nil {
		return err
	}
	defer memory.Close()
	if _, err := memory.WriteAt(t.plan.memory, int64(t.plan.load.Code)); err != nil {
		return err
	}
	if err := t.talk.tell(pack(t.plan.load), memory); err != nil {
		return err
	}
	b, err := t.talk.hear(ctx, buildLimit)
	if err != nil {
		return err
	}
	a, err := unpack[answer](b)
	if err != nil {
		return err
	}
	if a.Step >= 0 {
		return fmt.Errorf("%s: %w", t.plan.build.What(int(a.Step)), syscall.Errno(-a.Value))
	}
	return nil
}

// Close ends the template. Its clones live on.
func (t *Template) Close() error {
	t.talk.c.Close()
	_ = t.cmd.Process.Kill()
	select {
	case <-t.dead:
	case <-time.After(cloneLimit):
		return fmt.Errorf("template %d does not die", t.Pid)
	}
	err := os.RemoveAll(t.dir)
	if t.lock != nil {
		err = errors.Join(err, t.lock.Close())
	}
	return err
}

// Dead is closed when the template has ended.
func (t *Template) Dead() <-chan struct{} { return t.dead }

package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const restoreLog = "restore.log"

// InheritFD is a descriptor that stands in a restore for an external resource of the dump.
type InheritFD struct {
	Key  string // "pipe:[12345]", "extNetNS", …
	File *os.File
}

// RestoreOptions says what is restored, and how.
type RestoreOptions struct {
	Images   string // directory with the images; only read
	Work     string // directory for log and statistics, of this operation only; must exist
	Root     string // the root file system, a mount point; "" where the tasks have no mount namespace of their own
	External []string
	Inherit  []InheritFD
	TCPClose bool
	// Lazy leaves the memory of [Images.LazyPages] to a pager that listens in Work.
	Lazy    bool
	Env     []string // added to CRIU's environment: "CRIU_FAULT=130"
	PidFile string   // if not empty, the pid of the criu process is written there

	// OnSetup is called when the root task and its namespaces exist and no memory has been restored: the moment to
	// place it in its cgroup. pid is its id in the caller's pid namespace. It is not called for a tree that has no
	// namespace of its own. An error ends the restore.
	OnSetup func(pid int) error
	// OnReady is called when everything is restored and no task runs yet. An error ends the restore.
	OnReady func(pid int) error
	// OnTTY is called with the master of the terminal that the root task has, and owns the file from then on. An error
	// ends the restore.
	OnTTY func(master *os.File) error
}

// Restored is a restored tree.
type Restored struct {
	Pid    int // of the root task, a child of the calling process, which must wait for it
	Phases []snapshot.Phase
}

// restoration is a restore under way.
type restoration struct {
	s       *session
	o       RestoreOptions
	pid     int  // of the root task, 0 while it is not known
	resumed bool // all tasks have been let go
	mark    time.Time
	phases  []snapshot.Phase
}

// Restore makes the tree in o.Images again and returns when all its tasks run. The root task is a child of the calling
// process. On any error, and when ctx ends, nothing of the tree is left. A task that exits as soon as it runs is no
// error.
func (t Tool) Restore(ctx context.Context, o RestoreOptions) (*Restored, error) {
	dirs, err := openDirs(o.Images, o.Work)
	if err != nil {
		return nil, err
	}
	defer dirs.close()
	files := make([]*os.File, len(o.Inherit))
	for i, in := range o.Inherit {
		files[i] = in.File
	}
	r := &restoration{o: o, mark: time.Now()}
	if r.s, err = t.open(o.Env, files, o.PidFile); err != nil {
		return nil, err
	}
	err = r.s.send(&rpc.CriuReq{Type: rpc.CriuReqType_RESTORE.Enum(), Opts: o.request(dirs)})
	if err == nil {
		err = r.run(ctx)
	}
	if err != nil {
		return nil, r.undo(err)
	}
	go r.s.close() // criu has nothing left to do but to exit
	return &Restored{Pid: r.pid, Phases: r.phases}, nil
}

func (o *RestoreOptions) request(dirs dirs) *rpc.CriuOpts {
	r := &rpc.CriuOpts{
		RstSibling:      new(true),
		TcpClose:        new(o.TCPClose),
		External:        o.External,
		OrphanPtsMaster: new(true),
	}
	if o.Lazy {
		r.LazyPages = new(true)
	}
	common(r, dirs, restoreLog)
	if o.Root != "" {
		r.Root = new(o.Root)
	}
	for i, in := range o.Inherit {
		r.InheritFd = append(r.InheritFd, &rpc.InheritFd{Key: new(in.Key), Fd: new(int32(4 + i))})
	}
	return r
}

// run takes part in the restore until all tasks run.
func (r *restoration) run(ctx context.Context) error {
	for {
		m, err := r.s.recv(ctx)
		if err != nil {
			if r.resumed && errors.Is(err, errDied) {
				return nil
			}
			return err
		}
		if m.resp.GetType() != rpc.CriuReqType_NOTIFY {
			m.drop()
			return r.ended(m.resp)
		}
		if err := r.notified(m); err != nil {
			_ = r.s.answer(false)
			return err
		}
		if err := r.s.answer(true); err != nil && !r.resumed {
			return err
		}
	}
}

// ended judges criu's final answer. Once tasks run one may exit at any moment, which CRIU can take for a failure.
func (r *restoration) ended(resp *rpc.CriuResp) error {
	if pid := int(resp.GetRestore().GetPid()); resp.GetSuccess() && pid > 0 {
		r.pid = pid
	}
	if !resp.GetSuccess() && !r.resumed {
		return refused{resp.GetCrErrmsg()}
	}
	if r.pid == 0 {
		return errors.New("criu did not say which process it restored")
	}
	r.phase("resume")
	return nil
}

func (r *restoration) phase(name string) {
	now := time.Now()
	r.phases = append(r.phases, snapshot.Phase{Name: name, MS: float64(now.Sub(r.mark).Microseconds()) / 1000})
	r.mark = now
}

func (r *restoration) notified(m message) error {
	n := m.resp.GetNotify()
	if n.GetPid() > 0 {
		r.pid = int(n.GetPid())
	}
	call := func(f func(int) error) error {
		if f == nil {
			return nil
		}
		return f(r.pid)
	}
	if n.GetScript() == "orphan-pts-master" && m.file != nil && r.o.OnTTY != nil {
		return r.o.OnTTY(m.file)
	}
	m.drop()
	switch n.GetScript() {
	case "pre-restore":
		r.phase("start")
	case "setup-namespaces":
		r.phase("namespaces")
		return call(r.o.OnSetup)
	case "post-restore":
		r.phase("memory")
		return call(r.o.OnReady)
	case "post-resume":
		r.resumed = true
	}
	return nil
}

// undo ends what is left of a restore that has failed with cause, and returns the error to report.
func (r *restoration) undo(cause error) error {
	died := errors.Is(cause, errDied)
	if died || !r.vetoed() {
		r.s.kill()
	}
	var left error
	if r.pid > 0 {
		left = reap(r.pid)
	}
	if died || r.pid == 0 {
		left = errors.Join(left, sweep(r.s.pid()))
	}
	err := failure("restore", r.pid, cause, filepath.Join(r.o.Work, restoreLog))
	if left != nil {
		err.Err = errors.Join(err.Err, fmt.Errorf("clean up: %w", left))
	}
	return err
}

// vetoed gives criu, whose last question was answered with no or which has failed by itself, time to clean up.
func (r *restoration) vetoed() bool {
	ctx, cancel := context.WithTimeout(context.Background(), vetoWait)
	defer cancel()
	for {
		m, err := r.s.recv(ctx)
		if err != nil {
			return false
		}
		m.drop()
		if m.resp.GetType() != rpc.CriuReqType_NOTIFY {
			r.s.close()
			return true
		}
		_ = r.s.answer(false)
	}
}

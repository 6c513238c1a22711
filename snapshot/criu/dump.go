package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const (
	ghostLimit = 64 << 20 // deleted files up to this size go into the images
	logLevel   = 2        // errors and warnings
	dumpLog    = "dump.log"
	// vetoWait is how long a cancelled dump may go on to the next point at which CRIU can be told to undo it. After
	// that it is killed, which tasks survive too, but which leaves CRIU no time to clean up after itself.
	vetoWait   = 5 * time.Second
	finishWait = time.Minute
)

// DumpOptions says what is dumped, where to, and how.
type DumpOptions struct {
	Pid          int      // root of the tree, in the caller's pid namespace; it should be the init of one of its own
	Images       string   // directory for the images; must exist
	Work         string   // directory for log and statistics, of this operation only; must exist
	External     []string // resources that CRIU must not dump, in its own notation ("mnt[/data]:data", "net[4026531840]:net")
	LeaveRunning bool     // Finish lets the tasks run on instead of ending them
	TCPClose     bool     // established TCP connections are closed in the images
	// Timeout bounds the whole of Dump, and CRIU's freezing of tasks, which otherwise may take 10 seconds. 0 means that
	// only the context bounds it.
	Timeout time.Duration
	PidFile string // if not empty, the pid of the criu process is written there
}

// Dump is a dump whose tasks are frozen and whose images are written. One of Finish and Rollback must be called: until
// then no task runs. If the calling process dies instead, CRIU lets the tasks run again.
type Dump struct {
	s      *session
	o      DumpOptions
	before states
}

// Dump freezes the tree of o.Pid and writes its images. It returns when every task is frozen and all is written. On
// any error, and when ctx ends, the tasks run again before it returns; the error says so where they do not. What CRIU
// cannot dump makes an error of kind not-cloneable which names the process and what it holds.
func (t Tool) Dump(ctx context.Context, o DumpOptions) (*Dump, error) {
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Timeout)
		defer cancel()
	}
	d := &Dump{o: o, before: tree(o.Pid)}
	if len(d.before) == 0 {
		return nil, &snapshot.Error{Kind: snapshot.KindState, Op: "dump", On: fmt.Sprintf("process %d", o.Pid), Err: errors.New("there is no such process")}
	}
	dirs, err := openDirs(o.Images, o.Work)
	if err != nil {
		return nil, err
	}
	defer dirs.close()
	if d.s, err = t.open(t.plugins(o.Pid), nil, o.PidFile); err != nil {
		return nil, err
	}
	if err := d.s.send(&rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: o.request(dirs)}); err != nil {
		return nil, d.undo(err)
	}
	for {
		m, err := d.s.recv(ctx)
		if err != nil {
			return nil, d.undo(err)
		}
		m.drop()
		if m.resp.GetType() != rpc.CriuReqType_NOTIFY {
			return nil, d.undo(refused{m.resp.GetCrErrmsg()})
		}
		if m.resp.GetNotify().GetScript() == "post-dump" {
			return d, nil
		}
		if err := d.s.answer(true); err != nil {
			return nil, d.undo(err)
		}
	}
}

func (o *DumpOptions) request(dirs dirs) *rpc.CriuOpts {
	r := &rpc.CriuOpts{
		Pid:          new(int32(o.Pid)),
		LeaveRunning: new(o.LeaveRunning),
		TcpClose:     new(o.TCPClose),
		// A connection that has not been accepted is as good as closed.
		TcpSkipInFlight: new(o.TCPClose),
		External:        o.External,
		LinkRemap:       new(true),
		GhostLimit:      new(uint32(ghostLimit)),
		// The master of the container's terminal is held by its runtime.
		OrphanPtsMaster: new(true),
	}
	common(r, dirs, dumpLog)
	if o.Timeout > 0 {
		r.Timeout = new(uint32((o.Timeout + time.Second - 1) / time.Second))
	}
	return r
}

// common sets what dump and restore share.
func common(r *rpc.CriuOpts, dirs dirs, log string) {
	r.ImagesDirFd = new(int32(dirs.images.Fd()))
	r.WorkDirFd = new(int32(dirs.work.Fd()))
	r.LogFile = new(log)
	r.LogLevel = new(int32(logLevel))
	r.NotifyScripts = new(true)
	r.ShellJob = new(true)
	r.FileLocks = new(true)
	r.ExtUnixSk = new(true)
	// Whoever calls us places tasks in cgroups, and locks the network where connections are to survive.
	r.ManageCgroupsMode = rpc.CriuCgMode_IGNORE.Enum()
	r.NetworkLock = rpc.CriuNetworkLockMethod_SKIP.Enum()
}

// dirs are the two directories of an operation. CRIU reaches them through this process's descriptors.
type dirs struct{ images, work *os.File }

func openDirs(images, work string) (dirs, error) {
	i, err := os.Open(images)
	if err != nil {
		return dirs{}, err
	}
	w, err := os.Open(work)
	if err != nil {
		i.Close()
		return dirs{}, err
	}
	return dirs{i, w}, nil
}

func (d dirs) close() {
	d.images.Close()
	d.work.Close()
}

// undo ends a dump that has failed with cause, sees to it that the tasks run, and returns the error to report.
func (d *Dump) undo(cause error) error {
	died := errors.Is(cause, errDied)
	d.veto()
	var still error
	if died {
		still = sweep(d.s.pid())
	}
	still = errors.Join(still, thaw(d.o.Pid, d.before), casualties(d.before))
	err := failure("dump", d.o.Pid, cause, filepath.Join(d.o.Work, dumpLog))
	if still != nil {
		err.Err = errors.Join(err.Err, still)
	}
	return err
}

// veto refuses whatever criu asks next, which makes it undo the dump, and ends it.
func (d *Dump) veto() {
	ctx, cancel := context.WithTimeout(context.Background(), vetoWait)
	defer cancel()
	for {
		m, err := d.s.recv(ctx)
		if err != nil {
			d.s.kill()
			return
		}
		m.drop()
		if m.resp.GetType() != rpc.CriuReqType_NOTIFY {
			d.s.close()
			return
		}
		_ = d.s.answer(m.resp.GetNotify().GetScript() == "network-unlock")
	}
}

// Finish completes the dump: the tasks run on, or end when LeaveRunning is not set. On an error of a dump that does not
// leave them running, they may run or not; the error says which.
func (d *Dump) Finish() (Stats, error) {
	ctx, cancel := context.WithTimeout(context.Background(), finishWait)
	defer cancel()
	if err := d.conclude(ctx, true); err != nil {
		return Stats{}, d.undo(err)
	}
	if err := d.verify(); err != nil {
		return Stats{}, err
	}
	stats, err := readStats(d.o.Work)
	if err != nil && !d.o.LeaveRunning {
		// The work directory may have gone with a snapshot that was published before its container ended.
		return Stats{}, nil
	}
	return stats, err
}

// Frozen says with an error when the tasks are no longer held: CRIU has died under the dump, and what has been copied of
// the container since may be of a later instant than its memory.
func (d *Dump) Frozen() error {
	state, err := proc.State(d.o.Pid)
	if err == nil && !stopped(state) {
		err = errDied
	}
	if err != nil {
		return fmt.Errorf("process %d is not frozen any more: %w", d.o.Pid, err)
	}
	return nil
}

// Rollback abandons the dump: the tasks run again, also where LeaveRunning is not set. The images are of no use.
func (d *Dump) Rollback() error {
	ctx, cancel := context.WithTimeout(context.Background(), finishWait)
	defer cancel()
	// CRIU reports a rollback as a failed dump.
	if err := d.conclude(ctx, false); err != nil && !errors.Is(err, errVetoed) {
		return d.undo(err)
	}
	if err := thaw(d.o.Pid, d.before); err != nil {
		return fmt.Errorf("roll back the dump of process %d: %w", d.o.Pid, err)
	}
	return nil
}

var errVetoed = errors.New("vetoed")

// conclude answers the post-dump notification and goes on to criu's end.
func (d *Dump) conclude(ctx context.Context, ok bool) error {
	if err := d.s.answer(ok); err != nil {
		return err
	}
	for {
		m, err := d.s.recv(ctx)
		if err != nil {
			return err
		}
		m.drop()
		if m.resp.GetType() == rpc.CriuReqType_NOTIFY {
			if err := d.s.answer(true); err != nil {
				return err
			}
			continue
		}
		d.s.close()
		switch {
		case m.resp.GetSuccess():
			return nil
		case !ok:
			return errVetoed
		default:
			return refused{m.resp.GetCrErrmsg()}
		}
	}
}

// verify asks the kernel whether what criu reports is so.
func (d *Dump) verify() error {
	if d.o.LeaveRunning {
		return thaw(d.o.Pid, d.before)
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if gone(d.o.Pid) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d goes on after its dump", d.o.Pid)
		}
	}
}

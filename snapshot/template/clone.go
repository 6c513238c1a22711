package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Birth is what one clone is born with.
type Birth struct {
	Hostname string
	Stdin    *os.File
	Stdout   *os.File
	Stderr   *os.File
	Netns    *os.File   // nil on the host's network
	Cgroups  []*os.File // of each hierarchy, the file to which a process writes 0 to enter
	Mounts   []*os.File // as [sandbox.DetachedMounts] has them
}

// Fork makes a clone and returns its first process, a child of the thread that templates are launched from, when it is
// about to run its first instruction. On an error there is none.
func (t *Template) Fork(ctx context.Context, b Birth) (pid int, phases []snapshot.Phase, err error) {
	said, theirs, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer said.Close()
	defer theirs.Close()
	asked := time.Now()
	if pid, err = t.fork(ctx, b, theirs); err != nil {
		return 0, nil, err
	}
	theirs.Close()
	msg, err := receive(ctx, cloneLimit, said, 256)
	var r report
	if err == nil {
		r, err = unpack[report](msg)
	}
	if err == nil && r.Step >= 0 {
		err = fmt.Errorf("%s: %w", t.plan.what(r), syscall.Errno(-r.Error))
	}
	if err != nil {
		return 0, nil, errors.Join(fmt.Errorf("make the clone: %w", err), sys.KillAndReap(pid))
	}
	return pid, r.phases(asked), nil
}

func (t *Template) fork(ctx context.Context, b Birth, report *os.File) (int, error) {
	files := []*os.File{report, b.Stdin, b.Stdout, b.Stderr, b.Netns}
	if b.Netns == nil {
		files[givenNetns] = report // nobody uses it
	}
	files = append(append(files, b.Cgroups...), b.Mounts...)
	c := command{HostnameLen: uint64(copy(make([]byte, 64), b.Hostname))}
	copy(c.Hostname[:], b.Hostname)
	t.turn.Lock()
	defer t.turn.Unlock()
	if t.plan.clocks != nil {
		offsets, err := offsetsFrom(t.plan.clocks)
		if err != nil {
			return 0, err
		}
		c.OffsetsLen = uint64(copy(c.Offsets[:], offsets))
	}
	if err := t.talk.tell(pack(c), files...); err != nil {
		return 0, fmt.Errorf("ask the template: %w", err)
	}
	// Whoever has lost interest is told once there is a clone to be taken back.
	msg, err := t.talk.hear(context.WithoutCancel(ctx), cloneLimit)
	if err != nil {
		// It may fork yet, and nobody would know the child.
		_ = t.cmd.Process.Kill()
		return 0, fmt.Errorf("ask the template: %w", err)
	}
	a, err := unpack[answer](msg)
	switch {
	case err != nil:
		return 0, err
	case a.Step >= 0:
		return 0, fmt.Errorf("%s: %w", t.plan.before.What(int(a.Step)), syscall.Errno(-a.Value))
	case a.Value < 0:
		return 0, fmt.Errorf("fork: %w", syscall.Errno(-a.Value))
	}
	return int(a.Value), nil
}

// offsetsFrom returns by how much the clocks of a time namespace must differ from ours to go on from what was captured.
func offsetsFrom(then *timens.TimensEntry) (string, error) {
	monotonic, boottime, err := sys.Clocks()
	if err != nil {
		return "", err
	}
	line := func(name string, then, now int64) string {
		d := then - now
		s, ns := d/1e9, d%1e9
		if ns < 0 {
			s, ns = s-1, ns+1e9
		}
		return fmt.Sprintf("%s %d %d\n", name, s, ns)
	}
	at := func(t interface {
		GetTvSec() uint64
		GetTvNsec() uint64
	}) int64 {
		return int64(t.GetTvSec())*1e9 + int64(t.GetTvNsec())
	}
	return line("monotonic", at(then.GetMonotonic()), int64(monotonic)) + line("boottime", at(then.GetBoottime()), int64(boottime)), nil
}

// what says what the call was made for that a clone failed at.
func (p *plan) what(r report) string {
	step := int(r.Step)
	if r.Number >= uint64(len(p.tree)) {
		return fmt.Sprintf("process %d of %d", r.Number, len(p.tree))
	}
	in, what := p.tree[r.Number], ""
	switch {
	case step >= stepsLost:
		return "one of its processes ended before it was complete"
	case step >= stepsFinish:
		what = in.finish.What(step - stepsFinish)
	case step >= stepsThreads && len(in.threads) > 0: // they differ little, and it is not known which it was
		what = in.threads[0].What(step - stepsThreads)
	default:
		what = in.clone.What(step)
	}
	if len(p.tree) > 1 {
		what = fmt.Sprintf("%s: %s", in, what)
	}
	return what
}

// phases are the times of a clone.
func (r report) phases(asked time.Time) []snapshot.Phase {
	ms := func(from, to uint64) float64 { return float64(int64(to-from)) / 1e6 }
	return []snapshot.Phase{
		{Name: "ask", MS: ms(uint64(asked.UnixNano()), r.Received)},
		{Name: "fork", MS: ms(r.Received, r.Forked)},
		{Name: "make", MS: ms(r.Forked, r.Made)},
		{Name: "threads", MS: ms(r.Made, r.Gathered)},
		{Name: "finish", MS: ms(r.Gathered, r.Finished)},
		{Name: "tell", MS: ms(r.Finished, uint64(time.Now().UnixNano()))},
	}
}

package api

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// Exec runs a program in a running container.
func (l *Local) Exec(ctx context.Context, ref string, r ExecRequest) (int, error) {
	c, err := l.runningContainer(ctx, "exec", ref)
	if err != nil {
		return 0, err
	}
	if err := checkThawed("exec", c); err != nil {
		return 0, err
	}
	client, err := shim.Dial(ctx, c.ShimAddr)
	if err != nil {
		return 0, err
	}
	return execIn(ctx, client, c.ID, r)
}

// killWait is how long a container that was killed is waited for. Its memory may take the kernel seconds to free.
const killWait = time.Minute

// Stop ends a container: SIGTERM first, and SIGKILL after the grace period. A frozen one is thawed.
func (l *Local) Stop(ctx context.Context, ref string, grace time.Duration) error {
	c, err := l.runningContainer(ctx, "stop", ref)
	if err != nil {
		return err
	}
	if err := sendSignal(c, syscall.SIGTERM); err != nil {
		return err
	}
	if err := thaw(c); err != nil {
		return err
	}
	wctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := l.waitGone(wctx, c.ID); err == nil || ctx.Err() != nil {
		return err
	}
	return l.killAndWait(ctx, c)
}

// killAndWait ends a container, and thaws it to that end.
func (l *Local) killAndWait(ctx context.Context, c *snapshot.Container) error {
	if err := sendSignal(c, syscall.SIGKILL); err != nil {
		return err
	}
	if err := thaw(c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	return l.waitGone(ctx, c.ID)
}

// Kill sends a signal to the container's first process. SIGKILL ends a frozen container too; another signal to one is an
// error, since nobody would be there to take it.
func (l *Local) Kill(ctx context.Context, ref string, name string) error {
	sig, err := sys.ParseSignal(name)
	if err != nil {
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "kill", On: ref, Err: err, Hint: "a name such as TERM or SIGTERM, or a number"}
	}
	c, err := l.runningContainer(ctx, "kill", ref)
	if err != nil {
		return err
	}
	if sig == syscall.SIGKILL {
		return l.killAndWait(ctx, c)
	}
	if err := checkThawed("kill", c); err != nil {
		return err
	}
	return sendSignal(c, sig)
}

// waitGone waits until a container has exited, however it did.
func (l *Local) waitGone(ctx context.Context, id string) error {
	_, err := l.Wait(ctx, id)
	switch snapshot.KindOf(err) {
	case snapshot.KindUnreachable, snapshot.KindNotFound: // nobody saw its status; or it was to be removed, and is
		if c, err := l.Container(context.WithoutCancel(ctx), id); err != nil || c.Status == snapshot.StatusExited {
			return nil
		}
	}
	return err
}

// sendSignal sends through a pidfd, checked against the record, so that a reused pid is never hit.
func sendSignal(c *snapshot.Container, sig syscall.Signal) error {
	p, err := sys.OpenProcess(c.Pid)
	if err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return err
	}
	defer p.Close()
	if !running(c) {
		return nil
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal container %s: %w", c.Name, err)
	}
	return nil
}

// Wait returns the container's exit status once it has exited.
func (l *Local) Wait(ctx context.Context, ref string) (int, error) {
	c, err := l.Container(ctx, ref)
	if err != nil {
		return 0, err
	}
	for c.Status == snapshot.StatusRunning {
		if client, derr := shim.Dial(ctx, c.ShimAddr); derr == nil {
			status, werr := client.Wait(ctx, c.ID)
			if werr == nil || ctx.Err() != nil {
				return status, werr
			}
		}
		// The shim is gone or went away: the process itself tells when it ends, though not how.
		if p, perr := sys.OpenProcess(c.Pid); perr == nil {
			err := p.Exited(ctx)
			p.Close()
			if err != nil {
				return 0, err
			}
		}
		if c, err = l.Container(ctx, c.ID); err != nil {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
	if c.Status == snapshot.StatusDamaged {
		return 0, damaged("wait", c)
	}
	if !c.ExitKnown {
		return 0, &snapshot.Error{Kind: snapshot.KindUnreachable, Op: "wait", On: c.Name,
			Err:  errors.New("it has exited, and its exit status is lost: the shim that was its parent was killed"),
			Hint: "snapd-ctr logs " + c.Name + " shows what it said last"}
	}
	return c.ExitStatus, nil
}

// Remove deletes a container and its files. A damaged one is removed by force alone, since it may run.
func (l *Local) Remove(ctx context.Context, ref string, force bool) error {
	c, err := l.Container(ctx, ref)
	if err != nil {
		return err
	}
	if c.Status == snapshot.StatusDamaged {
		if !force {
			return damaged("rm", c)
		}
		return l.removeDamaged(c)
	}
	if c.Status == snapshot.StatusRunning {
		if !force {
			return &snapshot.Error{Kind: snapshot.KindState, Op: "rm", On: c.Name, Err: errors.New("the container is running"),
				Hint: "stop it first, or use rm -f"}
		}
		if l.forceRemoved(ctx, c) {
			return nil
		}
		if err := l.Kill(ctx, c.ID, "KILL"); err != nil && snapshot.KindOf(err) != snapshot.KindUnreachable &&
			snapshot.KindOf(err) != snapshot.KindNotFound {
			return err
		}
	}
	if client, err := shim.Dial(ctx, c.ShimAddr); err == nil {
		switch err := client.Delete(ctx, c.ID, false); {
		case err == nil:
			return nil
		case snapshot.KindOf(err) != snapshot.KindNotFound:
			return err
		}
	}
	return l.sweep(c)
}

// forceRemoved has the shim of a running container kill and remove it in one go, and says whether it did. Where it did not,
// whatever the reason, it is still to be done step by step.
func (l *Local) forceRemoved(ctx context.Context, c *snapshot.Container) bool {
	client, err := shim.Dial(ctx, c.ShimAddr)
	if err != nil || client.Pid() != c.ShimPid {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	return client.Delete(ctx, c.ID, true) == nil
}

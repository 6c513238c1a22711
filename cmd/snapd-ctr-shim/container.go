package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/pager"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

const (
	teardownTimeout = 20 * time.Second
	// drainTimeout is how long the output of an exited container may go on: a process outside of it can hold a
	// descriptor of its output.
	drainTimeout = 2 * time.Second
	recordPause  = time.Second // between attempts to record an end
)

// container is a container that is being made or that runs.
type container struct {
	paths shim.Paths
	dir   string
	log   *slog.Logger

	written  bool               // the record of a container that is being made is there, and says whose it is
	record   snapshot.Container // changes only while the container is being made
	made     atomic.Bool        // it runs, or has run
	unwanted atomic.Bool        // it is to be removed when it has exited
	removed  bool               // it has been; valid when done is closed
	exited   snapshot.Container // the last record; valid when done is closed
	process  *sys.Process       // init
	reap     func() (int, error)
	output   *output
	memory   *pager.Session              // serves a clone's memory; nil when all of it is its own
	undo     func(context.Context) error // takes back what was made for it, when it exits as well; nil while there is nothing
	done     chan struct{}               // closed when it has exited and been cleared away
	joining  sync.Mutex                  // held while state for exec is written
}

// begin writes the first record, by which what a killed shim leaves can be found, unless it is there.
func (c *container) begin() error {
	if c.written {
		return nil
	}
	return shim.WriteContainer(c.paths.Root, c.record)
}

// clear takes back everything.
func (c *container) clear() error {
	if c.undo == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	return c.undo(ctx)
}

// abandon takes back a container that could not be completed, its directory last. The directory stays when something
// may still be mounted there.
func (c *container) abandon() error {
	if err := c.clear(); err != nil {
		return err
	}
	return shim.RemoveFiles(c.paths.Root, c.record.ID)
}

// adopt takes over init, a child of ours. Where it cannot, init is gone.
func (c *container) adopt(pid int, reap func() (int, error)) error {
	process, err := sys.OpenProcess(pid)
	if err != nil {
		return errors.Join(err, sys.KillAndReap(pid))
	}
	if reap == nil {
		reap = process.Reap
	}
	c.process, c.reap = process, sync.OnceValues(reap)
	c.record.Pid = pid
	if c.record.StartTime, err = proc.StartTime(pid); err != nil {
		return err
	}
	c.record.BootID, err = proc.BootID()
	return err
}

// ran writes the record of a container whose program is about to run.
func (c *container) ran() error {
	c.record.Status = snapshot.StatusRunning
	return shim.WriteContainer(c.paths.Root, c.record)
}

func (c *container) kill() error {
	if c.process == nil {
		return nil
	}
	err := c.process.Signal(syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// destroy ends init and removes libcontainer's state.
func (c *container) destroy(ctx context.Context) error {
	return errors.Join(c.endInit(ctx), os.RemoveAll(filepath.Join(c.paths.Libcontainer(), c.record.ID)))
}

// endInit ends init, if it has not ended by itself, and reaps it.
func (c *container) endInit(ctx context.Context) error {
	if c.process == nil {
		return nil
	}
	if err := c.kill(); err != nil {
		return err
	}
	if err := c.process.Exited(ctx); err != nil {
		return err
	}
	_, err := c.reap()
	return errors.Join(err, c.process.Close())
}

// discard kills a container and waits until it and its files are gone, or says that they are not.
func (c *container) discard(ctx context.Context) (gone bool, err error) {
	c.unwanted.Store(true)
	if err := c.kill(); err != nil {
		return false, err
	}
	if c.record.Cgroup != "" {
		if g := sandbox.OpenCgroup(c.record.Cgroup); frozen(g) {
			if err := g.Thaw(); err != nil {
				return false, err
			}
		}
	}
	select {
	case <-c.done:
		return c.removed, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// ended says whether it has exited and been cleared away.
func (c *container) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func frozen(g *sandbox.Cgroup) bool {
	_, is, err := g.Frozen()
	return err == nil && is
}

// closeOutput waits for nothing: what an exited container wrote last is logged before.
func (c *container) closeOutput(context.Context) error {
	if c.output != nil {
		c.output.drain(0)
	}
	return nil
}

// watch waits for the container's end and clears it away. Its record is the last thing to change; where it cannot be
// written, watch says so: see record.
func (c *container) watch() (recorded bool) {
	if err := c.process.Exited(context.Background()); err != nil {
		c.log.Error("watch", "error", err)
	}
	status, err := c.reap()
	if err != nil {
		c.log.Error("exit status", "error", err)
	}
	known := err == nil
	c.output.drain(drainTimeout)
	cleared := c.clear()
	if cleared != nil {
		c.log.Error("clear away", "error", cleared)
	}
	c.exited = c.record
	c.exited.Status, c.exited.Finished = snapshot.StatusExited, time.Now().UTC()
	c.exited.ExitStatus, c.exited.ExitKnown = status, known
	if c.unwanted.Load() && cleared == nil {
		// A record of its end would be written, and synced to the disk, for nobody.
		if err := shim.RemoveFilesOf(c.paths.Root, c.exited); err == nil {
			c.removed = true
			return true
		}
	}
	if err := shim.WriteContainer(c.paths.Root, c.exited); err != nil {
		c.log.Error("record", "error", err)
		recorded = c.record.AutoRemove
	} else {
		recorded = true
	}
	if c.record.AutoRemove {
		if err := shim.RemoveFiles(c.paths.Root, c.record.ID); err != nil {
			c.log.Error("remove", "error", err)
		}
	}
	return recorded
}

// recordAgain writes the record of an exited container once that is possible: the disk may have been full. Until then this
// process is the only one that knows how it ended. It gives up when the container is not wanted any more.
func (c *container) recordAgain() {
	for !c.unwanted.Load() {
		time.Sleep(recordPause)
		if shim.WriteContainer(c.paths.Root, c.exited) == nil || !exists(c.dir) {
			return
		}
	}
}

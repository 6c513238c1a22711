package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/pager"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

const (
	teardownTimeout = 20 * time.Second
	// drainTimeout is how long the output of an exited container may go on: a process outside of it can hold a
	// descriptor of its output.
	drainTimeout = 2 * time.Second
)

// container is a container that is being made or that runs.
type container struct {
	paths shim.Paths
	dir   string
	log   *slog.Logger

	record  snapshot.Container // changes only while the container is being made
	made    atomic.Bool        // it runs, or has run
	exited  snapshot.Container // the last record; valid when done is closed
	process *sys.Process       // init
	reap    func() (int, error)
	output  *output
	memory  *pager.Session // serves a clone's memory; nil when all of it is its own
	undo    []func() error // what takes back what was made for it, newest last; runs when it exits as well
	done    chan struct{}  // closed when it has exited and been cleared away
	joining sync.Mutex     // held while state for exec is written
}

// step does one thing and remembers how to take it back. Each is a failpoint, "start.NAME" before and
// "start.after-NAME" behind.
func (c *container) step(ctx context.Context, name string, do, undo func() error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := fault.Point("start." + name); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if undo != nil {
		c.undo = append(c.undo, undo)
	}
	return fault.Point("start.after-" + name)
}

// begin writes the first record, by which what a killed shim leaves can be found.
func (c *container) begin() error { return shim.WriteContainer(c.paths.Root, c.record) }

// clear takes back everything, newest first. A failure keeps nothing else from being taken back.
func (c *container) clear() error {
	var errs []error
	for _, f := range slices.Backward(c.undo) {
		errs = append(errs, f())
	}
	c.undo = nil
	return errors.Join(errs...)
}

// abandon takes back a container that could not be completed, its directory last. The directory stays when something
// may still be mounted there.
func (c *container) abandon() error {
	if err := c.clear(); err != nil {
		return err
	}
	return shim.RemoveFiles(c.paths.Root, c.record.ID)
}

// adopt takes over init, a child of ours.
func (c *container) adopt(pid int, reap func() (int, error)) error {
	process, err := sys.OpenProcess(pid)
	if err != nil {
		return err
	}
	c.process, c.reap = process, reap
	if reap == nil {
		c.reap = process.Reap
	}
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

// destroyInit ends an init whose container is not to be.
func (c *container) destroyInit() error {
	if c.process == nil {
		return nil
	}
	defer c.process.Close()
	if err := c.kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	if err := c.process.Exited(ctx); err != nil {
		return err
	}
	_, err := c.reap()
	return err
}

// watch waits for the container's end and clears it away. Its record is the last thing to change.
func (c *container) watch() {
	if err := c.process.Exited(context.Background()); err != nil {
		c.log.Error("watch", "error", err)
	}
	status, err := c.reap()
	if err != nil {
		c.log.Error("exit status", "error", err)
	}
	known := err == nil
	c.process.Close()
	c.output.drain(drainTimeout)
	if err := c.clear(); err != nil {
		c.log.Error("clear away", "error", err)
	}
	c.exited = c.record
	c.exited.Status, c.exited.Finished = snapshot.StatusExited, time.Now().UTC()
	c.exited.ExitStatus, c.exited.ExitKnown = status, known
	if err := shim.WriteContainer(c.paths.Root, c.exited); err != nil {
		c.log.Error("record", "error", err)
	}
	if c.record.AutoRemove {
		if err := shim.RemoveFiles(c.paths.Root, c.record.ID); err != nil {
			c.log.Error("remove", "error", err)
		}
	}
}

// dropState removes libcontainer's state.
func (c *container) dropState() error {
	return os.RemoveAll(filepath.Join(c.paths.Libcontainer(), c.record.ID))
}

// bounded runs a part of a teardown with the time a teardown may take.
func bounded(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), teardownTimeout, fmt.Errorf("not done in %s", teardownTimeout))
	defer cancel()
	return f(ctx)
}

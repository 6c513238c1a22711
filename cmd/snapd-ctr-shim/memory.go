package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// watchMemory ends a clone whose memory cannot be served: it would read zeros where it left data.
func (c *container) watchMemory() {
	<-c.memory.Filled()
	if err := c.memory.Err(); err != nil {
		c.log.Error("the container is killed: a part of its memory could not be brought", "error", err)
		if err := c.process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			c.log.Error("kill", "error", err)
		}
	}
}

// Settle waits until all memory of a container is its own. A capture of a clone needs that.
func (p *parent) Settle(ctx context.Context, id string) error {
	c := p.find(id)
	if c == nil {
		return notHere(id)
	}
	if c.memory == nil {
		return nil
	}
	c.memory.Hurry()
	select {
	case <-c.memory.Filled():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := c.memory.Err(); err != nil {
		return &snapshot.Error{Kind: snapshot.KindFailed, Op: "fill memory of", On: snapshot.ShortID(id), Err: err}
	}
	return nil
}

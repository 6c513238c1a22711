package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

var errDoubtful = errors.New("threads changed the same addresses while their memory came, and what is there cannot be told any more")

// watchMemory ends a clone whose memory cannot be served: it would read zeros where it left data.
func (c *container) watchMemory() {
	select {
	case <-c.memory.Filled():
	case <-c.memory.Doubtful():
		c.log.Warn("threads changed the same addresses while their memory came: if one touches that memory, the container is killed")
		<-c.memory.Filled()
	}
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
	case <-c.memory.Doubtful():
		select {
		case <-c.memory.Filled(): // that memory is gone
		default:
			return &snapshot.Error{Kind: snapshot.KindFailed, Op: "fill memory of", On: snapshot.ShortID(id), Err: errDoubtful,
				Hint: "the container runs on; snapshot another clone of it, or one made with SNAPD_CTR_MEMORY=eager"}
		}
	}
	if err := c.memory.Err(); err != nil {
		return &snapshot.Error{Kind: snapshot.KindFailed, Op: "fill memory of", On: snapshot.ShortID(id), Err: err}
	}
	return nil
}

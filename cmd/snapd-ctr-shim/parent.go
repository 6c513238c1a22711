package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template"
)

// parent is the parent of the containers of this shim. It implements [shim.Handler].
type parent struct {
	paths  shim.Paths
	bridge sandbox.Bridge
	engine engine
	// templates are those of the engine that needs some.
	templates *template.Engine
	socket    string
	log       *slog.Logger
	configs   knownConfigs

	mu         sync.Mutex
	containers map[string]*container // those being made and those that run
}

// enter makes a container known, so that nobody else makes the same one.
func (p *parent) enter(record snapshot.Container) (*container, error) {
	if err := snapshot.CheckName(record.ID); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.containers[record.ID] != nil {
		return nil, &snapshot.Error{Kind: snapshot.KindExists, Op: "start", On: snapshot.ShortID(record.ID),
			Err: errors.New("the container exists")}
	}
	written := record.ShimAddr == p.socket && record.ShimPid == os.Getpid() // by the client
	record.ShimAddr, record.ShimPid = p.socket, os.Getpid()
	record.Status = snapshot.StatusCreating
	if record.Created.IsZero() {
		record.Created = time.Now().UTC()
	}
	c := &container{
		paths: p.paths, dir: shim.ContainerDir(p.paths.Root, record.ID),
		record: record, written: written, log: p.log.With("container", snapshot.ShortID(record.ID)), done: make(chan struct{}),
	}
	p.containers[record.ID] = c
	return c, nil
}

func (p *parent) leave(c *container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.containers, c.record.ID)
}

func (p *parent) find(id string) *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.containers[id]
}

// Start runs a container. A start that fails leaves nothing behind; the container's directory goes as well.
func (p *parent) Start(ctx context.Context, id string, r shim.StartRequest) (snapshot.Container, error) {
	r.Record.ID = id
	return p.make(r.Record, func(c *container) error { return c.start(ctx, p.bridge, r.Lower) })
}

// Clone restores a container from a snapshot.
func (p *parent) Clone(ctx context.Context, id string, r shim.CloneRequest) (snapshot.Container, []snapshot.Phase, error) {
	r.Record.ID = id
	if err := p.configs.read(&r); err != nil {
		return snapshot.Container{}, nil, err
	}
	var phases []snapshot.Phase
	record, err := p.make(r.Record, func(c *container) (err error) {
		phases, err = c.clone(ctx, p.engine, r)
		return err
	})
	return record, phases, err
}

// make makes a container and watches it from then on.
func (p *parent) make(record snapshot.Container, how func(*container) error) (snapshot.Container, error) {
	c, err := p.enter(record)
	if err != nil {
		return snapshot.Container{}, err
	}
	if err := c.begin(); err != nil {
		p.leave(c)
		return snapshot.Container{}, err
	}
	if err := how(c); err != nil {
		err = errors.Join(err, c.abandon())
		p.leave(c)
		return snapshot.Container{}, err
	}
	made := c.record
	c.made.Store(true)
	go func() {
		if c.watch() {
			p.leave(c)
			close(c.done)
			return
		}
		close(c.done)
		c.recordAgain()
		p.leave(c)
	}()
	return made, nil
}

// Wait returns the exit status of a container once it has exited.
func (p *parent) Wait(ctx context.Context, id string) (int, error) {
	if c := p.find(id); c != nil {
		select {
		case <-c.done:
		case <-ctx.Done():
			return -1, context.Cause(ctx)
		}
		return exitStatus(c.exited)
	}
	record, err := shim.ReadContainer(p.paths.Root, id)
	if err != nil {
		return -1, err
	}
	return exitStatus(record)
}

func exitStatus(record snapshot.Container) (int, error) {
	id := record.ID
	switch {
	case record.Status != snapshot.StatusExited:
		return -1, notHere(id)
	case !record.ExitKnown:
		return -1, &snapshot.Error{Kind: snapshot.KindState, Op: "wait for", On: snapshot.ShortID(id),
			Err: errors.New("it exited with a status that nobody saw")}
	}
	return record.ExitStatus, nil
}

// Delete deletes an exited container and its files. With force one that runs is killed, and goes without a record of its end.
func (p *parent) Delete(ctx context.Context, id string, force bool) error {
	if err := snapshot.CheckName(id); err != nil {
		return err
	}
	c := p.find(id)
	switch {
	case c == nil:
	case c.ended():
		// Its end is not on the disk, and need not be any more.
		c.unwanted.Store(true)
		if !c.removed {
			return shim.RemoveFilesOf(p.paths.Root, c.exited)
		}
		return nil
	case force && c.made.Load():
		if gone, err := c.discard(ctx); gone || err != nil {
			return err
		}
	default:
		if record, err := shim.ReadContainer(p.paths.Root, id); err != nil || record.Status != snapshot.StatusExited {
			return &snapshot.Error{Kind: snapshot.KindState, Op: "remove", On: snapshot.ShortID(id),
				Err: errors.New("it is running"), Hint: "stop it first, or remove it with --force"}
		}
		select { // its end has been recorded just now
		case <-c.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return shim.Remove(ctx, p.paths, id)
}

// Idle says whether there is no container that runs, and no template that is to stay. An exited container needs no parent:
// its record says everything.
func (p *parent) Idle() bool {
	if p.templates.Pinned() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.containers) == 0
}

// end kills what still runs and waits until it is cleared away.
func (p *parent) end() {
	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	p.mu.Lock()
	var left []*container
	for _, c := range p.containers {
		left = append(left, c)
	}
	p.mu.Unlock()
	for _, c := range left {
		if err := c.kill(); err != nil {
			c.log.Error("kill", "error", err)
		}
	}
	for _, c := range left {
		select {
		case <-c.done:
		case <-ctx.Done():
			c.log.Error("not gone when the shim ended")
		}
	}
	if c, ok := p.engine.(io.Closer); ok {
		if err := c.Close(); err != nil {
			p.log.Error("end the engine", "error", err)
		}
	}
}

func notHere(id string) error {
	return &snapshot.Error{Kind: snapshot.KindState, Op: "find container", On: snapshot.ShortID(id),
		Err: errors.New("this shim is not its parent"), Hint: "the shim that was is gone; `snapd-ctr fsck --repair` clears away what it left"}
}

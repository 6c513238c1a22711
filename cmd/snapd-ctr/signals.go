package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// signals turns the first SIGINT or SIGTERM into the end of a context, and leaves at the second.
type signals struct {
	mu     sync.Mutex
	before func() // to be done before leaving, or nil
}

// watch returns a context that the first signal ends with the cause errInterrupted. stop gives the signals back.
func (s *signals) watch(ctx context.Context, stderr io.Writer) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-c:
			cancel(errInterrupted)
		case <-done:
			return
		}
		select {
		case <-c:
			s.leave()
			fmt.Fprintln(stderr, "snapd-ctr: left before everything was undone")
			fmt.Fprintln(stderr, "hint: snapd-ctr fsck --repair cleans up what was left behind")
			os.Exit(codeInterrupted)
		case <-done:
		}
	})
	return ctx, func() {
		signal.Stop(c)
		close(done)
		wg.Wait()
		cancel(nil)
	}
}

// onLeave sets what a second signal does before it ends the process; nil unsets it.
func (s *signals) onLeave(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

func (s *signals) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.before != nil {
		s.before()
	}
}

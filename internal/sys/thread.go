package sys

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Thread is one thread of the operating system that lives until it is closed. A process that asks for a signal at its
// parent's death gets it when the thread ends that made it, not the process: such children are made on a Thread.
type Thread struct{ work chan func() }

// NewThread starts a thread. It is never the process's first.
func NewThread() *Thread {
	t := &Thread{make(chan func())}
	go t.live(make(chan struct{}))
	return t
}

func (t *Thread) live(begun chan struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		again := make(chan struct{})
		go t.live(again)
		<-again // while the first thread is locked to this goroutine, that one runs on another thread
		runtime.UnlockOSThread()
		close(begun)
		return
	}
	close(begun)
	for f := range t.work { // never unlocked: the thread ends with the goroutine
		f()
	}
}

// Do runs f on the thread and returns its error.
func (t *Thread) Do(f func() error) error {
	done := make(chan error, 1)
	t.work <- func() { done <- f() }
	return <-done
}

// Close ends the thread.
func (t *Thread) Close() error {
	close(t.work)
	return nil
}

// Aside runs f on a thread that ends with it, so that what f does to the thread's namespaces touches nobody else.
// Processes that f starts are children of the whole process and outlive the thread. The thread is never the process's
// first: that one cannot end, would stay in the namespaces that f entered, and /proc/PID would show those as the
// process's.
func Aside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return // still locked: the runtime ends the thread
		}
		// While the first thread is locked to this goroutine, another goroutine runs on another thread.
		done <- Aside(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}

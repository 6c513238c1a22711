package sys

import "runtime"

// Thread is one thread of the operating system that lives until it is closed. A process that asks for a signal at its
// parent's death gets it when the thread ends that made it, not the process: such children are made on a Thread.
type Thread struct{ work chan func() }

// NewThread starts a thread.
func NewThread() *Thread {
	t := &Thread{make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range t.work {
			f()
		}
	}()
	return t
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

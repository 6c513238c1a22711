package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lock is held by whoever starts or ends the shim of a group.
type lock struct{ f *os.File }

// takeLock takes the lock of a group, waiting for it until ctx ends.
func takeLock(ctx context.Context, path string) (*lock, error) {
	for {
		l, err := tryLock(path)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", path, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tryLock takes the lock or returns EWOULDBLOCK. A shim that ends removes the file while it holds it, so a lock counts
// only when the file is still the one that others will find.
func tryLock(path string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return &lock{f}, nil
		}
		f.Close()
	}
}

func (l *lock) release() { l.f.Close() }

// remove removes the lock's file and goes on holding the lock.
func (l *lock) remove() { os.Remove(l.f.Name()) }

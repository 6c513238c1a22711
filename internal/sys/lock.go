package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned by TryLockFile when somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// FileLock is an exclusive lock on a file (flock). The kernel frees it when the process that holds it dies.
type FileLock struct{ f *os.File }

// LockFile takes the lock on the file at path, which it makes if it is missing, and waits until it is free.
func LockFile(path string) (*FileLock, error) { return lockFile(path, unix.LOCK_EX) }

// TryLockFile takes the lock if it is free, and returns [ErrLocked] if it is not.
func TryLockFile(path string) (*FileLock, error) { return lockFile(path, unix.LOCK_EX|unix.LOCK_NB) }

func lockFile(path string, how int) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		switch {
		case err == nil:
			return &FileLock{f}, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			err = ErrLocked
		}
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
}

// Close frees the lock.
func (l *FileLock) Close() error { return l.f.Close() }

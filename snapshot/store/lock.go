package store

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// lockTimeout bounds the wait for a lock where the caller gave no context. The longest holder is the garbage
// collector while it deletes.
const lockTimeout = 2 * time.Minute

// lock is a held lock on a file. The kernel drops it when the process dies.
type lock struct{ f *os.File }

// Close gives the lock back.
func (l *lock) Close() error { return l.f.Close() }

// lockStore takes the lock of the whole store: shared to add blobs, exclusive to change the index or to delete.
func (s *Store) lockStore(exclusive bool) (*lock, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	return s.lockStoreContext(ctx, exclusive)
}

func (s *Store) lockStoreContext(ctx context.Context, exclusive bool) (*lock, error) {
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	return waitLock(ctx, s.path(fileLock), func(f *os.File) error {
		return syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	})
}

// lockDigest takes the lock of one digest, which serialises those who want to unpack it: a range of one byte, at the
// offset that the digest's first digits say, of a file that has no content.
func (s *Store) lockDigest(ctx context.Context, digest string) (*lock, error) {
	b, err := hex.DecodeString(hexOf(digest)[:16])
	if err != nil {
		return nil, err
	}
	const openFileDescription = 37 // F_OFD_SETLK: the lock belongs to the descriptor, not to the process
	at := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Len: 1,
		Start: int64(binary.BigEndian.Uint64(b) >> 2)}
	return waitLock(ctx, s.path(fileKeys), func(f *os.File) error {
		return syscall.FcntlFlock(f.Fd(), openFileDescription, &at)
	})
}

// waitLock opens the file and tries until it has the lock or ctx ends.
func waitLock(ctx context.Context, path string, try func(*os.File) error) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := try(f)
		if err == nil {
			return &lock{f}, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, &snapshot.Error{Kind: snapshot.KindState, Op: "lock", On: path, Err: context.Cause(ctx),
				Hint: "another snapd-ctr process is busy in this store"}
		case <-time.After(pause):
		}
	}
}

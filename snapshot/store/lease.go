package store

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lease protects a staging directory, and the blobs that it lists, from the garbage collector for as long as its file
// is locked, which is at most as long as the process lives.
type lease struct {
	f   *os.File
	dir string // staging directory; the file is dir + leaseSuffix
}

const leaseSuffix = ".lease"

// newLease makes a staging directory and its lease. The shared store lock keeps the collector, which takes it
// exclusively, from seeing the file before it is locked.
func (s *Store) newLease() (*lease, error) {
	l, err := s.lockStore(false)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	dir := s.path(dirStaging, rand.Text())
	f, err := os.OpenFile(dir+leaseSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	e := &lease{f: f, dir: dir}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// hold adds a digest to the lease. The caller has the store's lock, so no collector is between reading leases and
// deleting.
func (e *lease) hold(digest string) error {
	_, err := e.f.WriteString(digest + "\n")
	return err
}

// Close deletes the staging directory and gives the lease up.
func (e *lease) Close() error {
	return errors.Join(os.RemoveAll(e.dir), removeFile(e.dir+leaseSuffix), e.f.Close())
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// leases returns the digests that live leases hold, and the staging entries that nobody holds. The store's lock is
// held exclusively.
func (s *Store) leases() (held map[string]bool, dead []string, err error) {
	entries, err := os.ReadDir(s.path(dirStaging))
	if err != nil {
		return nil, nil, err
	}
	held = make(map[string]bool)
	alive := make(map[string]bool)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), leaseSuffix)
		if !ok {
			continue
		}
		digests, live, err := readLease(s.path(dirStaging, e.Name()))
		if err != nil {
			return nil, nil, err
		}
		if !live {
			continue
		}
		alive[name] = true
		for _, d := range digests {
			held[d] = true
		}
	}
	for _, e := range entries {
		if !alive[strings.TrimSuffix(e.Name(), leaseSuffix)] {
			dead = append(dead, filepath.Join(dirStaging, e.Name()))
		}
	}
	return held, dead, nil
}

// readLease returns what a lease lists and whether anybody holds it.
func readLease(path string) (digests []string, live bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // given up just now
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil {
		return nil, false, nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, false, err
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		digests = append(digests, lines.Text())
	}
	return digests, true, lines.Err()
}

// sweep deletes what dead processes left in staging. When the store is busy it leaves that to the next one.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.path(dirStaging))
	if err != nil || len(entries) == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l, err := s.lockStoreContext(ctx, true)
	if err != nil {
		return nil
	}
	defer l.Close()
	_, dead, err := s.leases()
	if err != nil {
		return err
	}
	for _, d := range dead {
		if err := os.RemoveAll(s.path(d)); err != nil {
			return err
		}
	}
	return nil
}

// ended says whether nothing is left of a staging entry: its transaction ended while somebody looked.
func (s *Store) ended(entry string) bool {
	for _, p := range [...]string{entry, entry + leaseSuffix} {
		if _, err := os.Lstat(s.path(p)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

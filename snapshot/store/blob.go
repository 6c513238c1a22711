package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
)

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// digestFile reads a file and returns its digest and size.
func digestFile(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return digestReader(f)
}

func digestReader(r io.Reader) (string, int64, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 1<<20))
	if err != nil {
		return "", 0, err
	}
	return digestPrefix + hex.EncodeToString(h.Sum(nil)), n, nil
}

// staged is a file of a staging directory that is to become a blob.
type staged struct {
	path   string
	digest string
	size   int64
}

// stage copies r into a new file of the staging directory.
func (e *lease) stage(r io.Reader) (*staged, error) {
	f, err := os.CreateTemp(e.dir, "blob-")
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	size, err := io.CopyBuffer(io.MultiWriter(f, h), struct{ io.Reader }{r}, make([]byte, 1<<20))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return &staged{f.Name(), digestPrefix + hex.EncodeToString(h.Sum(nil)), size}, nil
}

// adopt makes the file a blob: it moves it into place, or deletes it where the same blob is there already. The file
// must be on the store's file system and nobody may write to it any more. Once more it does nothing.
func (s *Store) adopt(e *lease, b *staged) error {
	if b.path == "" {
		return nil
	}
	if err := os.Chmod(b.path, 0o600); err != nil {
		return err
	}
	l, err := s.lockStore(false)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := e.hold(b.digest); err != nil {
		return err
	}
	there, err := s.sound(b.digest, b.size)
	if err != nil {
		return err
	}
	if there {
		err = os.Remove(b.path)
	} else {
		err = os.Rename(b.path, s.blobPath(b.digest))
	}
	if err != nil {
		return err
	}
	b.path = ""
	return fault.Point("store.blob")
}

// sound says whether the store has the blob already. It reads all of it: one that is damaged must not be taken for the
// same, and is healed by the one that the caller brings.
func (s *Store) sound(digest string, size int64) (bool, error) {
	st, err := os.Lstat(s.blobPath(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || st.Size() != size || !st.Mode().IsRegular() {
		return false, err
	}
	got, _, err := digestFile(s.blobPath(digest))
	return got == digest, err
}

// bring moves a file into the staging directory of e when it lies on another file system, where it cannot be renamed
// from, and returns where it is then.
func (e *lease) bring(path string) (string, error) {
	var st, here syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	if err := syscall.Stat(e.dir, &here); err != nil {
		return "", fmt.Errorf("stat %s: %w", e.dir, err)
	}
	if st.Dev == here.Dev {
		return path, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := e.stage(f)
	if err != nil {
		return "", err
	}
	return b.path, os.Remove(path)
}

// putBlob stores a small blob.
func (s *Store) putBlob(e *lease, b []byte) (string, error) {
	digest := digestOf(b)
	path := filepath.Join(e.dir, hexOf(digest))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return "", err
	}
	return digest, s.adopt(e, &staged{path, digest, int64(len(b))})
}

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// SpareRoot is the root file system of a clone, held beside the mount that the clone has of it. Where the clone wrote
// nothing, the next one can have it: to mount it again takes microseconds, to take an overlay apart and make another one
// milliseconds.
type SpareRoot struct {
	mount       *sys.DetachedMount
	upper, work string
	seal        seal
}

// seal is what of a directory changes with every change to what is in it, or to itself. Linux 6.13 and newer give a change
// that follows a look at ctime another one, however soon it comes; not so all file systems, hence the rest.
type seal struct {
	ctime, mtime   syscall.Timespec
	mode, uid, gid uint32
}

func sealOf(name string) (seal, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(name, &st); err != nil {
		return seal{}, &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	return seal{st.Ctim, st.Mtim, st.Mode, st.Uid, st.Gid}, nil
}

// SpareRoot keeps hold of the root file system that [Blueprint.Make] made of the parts. It fails where that cannot be told
// from one that was written to, since its upper directory is not empty to begin with, and before Linux 6.15.
func (d *DetachedMounts) SpareRoot(p Parts) (*SpareRoot, error) {
	if empty, err := isEmpty(p.Upper); err != nil || !empty {
		return nil, errors.Join(fmt.Errorf("keep the root file system: %s is not empty", p.Upper), err)
	}
	var err error
	s := &SpareRoot{upper: p.Upper, work: p.Work}
	if s.mount, err = d.mounts[0].Again(); err != nil {
		return nil, err
	}
	if s.seal, err = sealOf(p.Upper); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Untouched says whether nothing was ever made, removed or changed in the file system: all that is would have gone through
// its upper directory, which was empty. The processes that had it must be gone.
func (s *SpareRoot) Untouched() (bool, error) {
	now, err := sealOf(s.upper)
	if err != nil || now != s.seal {
		return false, err
	}
	return isEmpty(s.upper)
}

// Move gives the directories of an untouched file system other names.
func (s *SpareRoot) Move(upper, work string) error {
	if err := os.Rename(s.upper, upper); err != nil {
		return err
	}
	s.upper = upper
	if err := os.Rename(s.work, work); err != nil {
		return err
	}
	s.work = work
	var err error
	s.seal, err = sealOf(upper) // being renamed is a change
	return err
}

// Follow says that the directories have other names by now, since one that they are in was renamed.
func (s *SpareRoot) Follow(upper, work string) { s.upper, s.work = upper, work }

// Close lets go of the file system.
func (s *SpareRoot) Close() error { return s.mount.Close() }

func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

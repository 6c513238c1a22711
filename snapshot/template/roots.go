package template

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// root is the root file system of a clone that has ended and had written nothing, for another one to have: when an overlay
// is taken apart, the kernel syncs the whole file system that it lies on, which takes longer than a clone. Its
// directories are in one that says whose it is, as [network] has it.
type root struct {
	id    string
	spare *sandbox.SpareRoot
}

// keepRoot takes over the root of a clone that has ended, if nothing was ever written to it. upper stays, empty as it was.
func (s *slots) keepRoot(spare *sandbox.SpareRoot, upper string) bool {
	s.mu.Lock()
	wanted := !s.closed && s.apart && len(s.roots) < s.want
	s.mu.Unlock()
	if !wanted {
		return false
	}
	if ok, err := spare.Untouched(); err != nil || !ok {
		return false
	}
	r := root{snapshot.NewID(), spare}
	dir := s.making(r.id)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = spare.Move(filepath.Join(dir, "upper"), filepath.Join(dir, "work"))
	}
	if err == nil {
		err = errors.Join(os.Mkdir(upper, 0o700), sys.CopyMeta(filepath.Join(dir, "upper"), upper))
	}
	if err != nil {
		s.engine.Log.Warn("a root file system could not be used again", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.closed || len(s.roots) >= s.want {
		_ = s.dropRoot(r)
		return true
	}
	s.roots = append(s.roots, r)
	return true
}

// rootAgain returns a root that has been used, with its directories under the names that it is to have; nil where there is
// none.
func (s *slots) rootAgain(upper, work string) *sandbox.SpareRoot {
	s.mu.Lock()
	if len(s.roots) == 0 {
		s.mu.Unlock()
		return nil
	}
	r := s.roots[len(s.roots)-1]
	s.roots = s.roots[:len(s.roots)-1]
	s.mu.Unlock()
	if err := r.spare.Move(upper, work); err != nil {
		s.engine.Log.Warn("a root file system could not be used again", "error", errors.Join(err, s.dropRoot(r)))
		return nil
	}
	_ = os.Remove(s.making(r.id)) // the next shim's sweep removes it as well
	return r.spare
}

// dropRoot gives a root up.
func (s *slots) dropRoot(r root) error {
	return errors.Join(r.spare.Close(), os.RemoveAll(s.making(r.id)))
}

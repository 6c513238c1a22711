package capture

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
)

// stray is a file that a process of the container runs or has mapped by way of a mount that no process of it sees. What a
// process that was forked into the container has, its first files among it, is of the mounts of the one it was forked
// from. In a snapshot it is the file that the container has by the same name.
type stray struct {
	proc.MappedFile
	pid int
}

// strays are found before the freeze: afterwards there can be fewer, but no new ones, since what a process of the
// container opens is on the container's mounts.
type strays []stray

func findStrays(root int) (found strays, err error) {
	pids, err := proc.Children(root)
	if err != nil {
		return nil, err
	}
	pids = append([]int{root}, pids...)
	mounts := make(map[int]bool)
	for _, pid := range pids {
		seen, err := proc.Mounts(pid)
		if pid != root && ended(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range seen {
			mounts[m.ID] = true
		}
	}
	for _, pid := range pids {
		files, err := proc.MappedOutside(pid, mounts)
		if pid != root && ended(err) {
			continue
		}
		if err != nil {
			found.close()
			return nil, err
		}
		found.add(pid, files)
	}
	return found, nil
}

// ended says whether err means that there is nothing more to know of a process: it is gone, or a zombie.
func ended(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL)
}

// add takes the files of a process over. Those that another process has as well are closed.
func (ss *strays) add(pid int, files []proc.MappedFile) {
	for _, f := range files {
		if slices.ContainsFunc(*ss, func(s stray) bool { return s.Is(f) }) {
			f.Close()
			continue
		}
		*ss = append(*ss, stray{f, pid})
	}
}

func (ss strays) close() {
	for _, s := range ss {
		s.Close()
	}
}

// external returns the names by which CRIU is told not to ask where the files are.
func (ss strays) external() []string {
	var names []string
	for _, s := range ss {
		names = append(names, criu.ExternalFile(s.Mount, s.Inode))
	}
	return names
}

// places finds the files in the container that has the root directory of the process root, which is frozen.
func (ss strays) places(root int) (map[string]criu.Place, error) {
	if len(ss) == 0 {
		return nil, nil
	}
	dir, err := os.Open(fmt.Sprintf("/proc/%d/root", root))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	places := make(map[string]criu.Place)
	for _, s := range ss {
		place, err := s.findIn(dir)
		if err != nil {
			return nil, err
		}
		name := criu.ExternalFile(s.Mount, s.Inode)
		if p, taken := places[name]; taken && p.Path != place.Path {
			return nil, s.refuse(fmt.Errorf("has the inode number of %s too", p.Path))
		}
		places[name] = place
	}
	return places, nil
}

// findIn looks for the file in a root directory.
func (s stray) findIn(root *os.File) (criu.Place, error) {
	f, err := sys.OpenInRoot(root, s.Name(), syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR) {
		return criu.Place{}, s.refuse(errors.New("is no longer there"))
	}
	if err != nil {
		return criu.Place{}, err
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return criu.Place{}, &os.PathError{Op: "stat", Path: s.Name(), Err: err}
	}
	same, err := s.sameAs(f, &st)
	if err != nil {
		return criu.Place{}, err
	}
	if !same {
		return criu.Place{}, s.refuse(errors.New("is another file there now"))
	}
	mount, err := proc.MountID(f)
	return criu.Place{Path: s.Name(), Mount: mount, Mode: st.Mode}, err
}

func (s stray) refuse(why error) error {
	return &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "snapshot", On: fmt.Sprintf("process %d", s.pid),
		Err:  fmt.Errorf("%s, which it runs or has mapped, %w", s.Name(), why),
		Hint: "put the file back as it was when the container was cloned; or snapshot the container before the file is changed"}
}

// sameAs says whether f, which has the status st, has the content of the file. A file on a lower layer of two overlays has
// one inode number in both, and keeps it when it is copied up to be changed; but then it gets another time of change.
func (s stray) sameAs(f *os.File, st *syscall.Stat_t) (bool, error) {
	var mine syscall.Stat_t
	if err := syscall.Fstat(int(s.Fd()), &mine); err != nil {
		return false, &os.PathError{Op: "stat", Path: s.Name(), Err: err}
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Size != mine.Size {
		return false, nil
	}
	if st.Ino == mine.Ino && st.Mtim == mine.Mtim && st.Ctim == mine.Ctim {
		return true, nil
	}
	g, err := os.Open(sys.FDPath(s.File, ""))
	if err != nil {
		return false, err
	}
	defer g.Close()
	return equal(f, g)
}

// equal says whether two readers have the same to read.
func equal(a, b io.Reader) (bool, error) {
	const piece = 1 << 20
	one, other := bufio.NewReaderSize(a, piece), bufio.NewReaderSize(b, piece)
	for {
		p, errA := one.Peek(piece)
		q, errB := other.Peek(piece)
		if err := errors.Join(notEnd(errA), notEnd(errB)); err != nil {
			return false, err
		}
		if !bytes.Equal(p, q) {
			return false, nil
		}
		if len(p) == 0 {
			return true, nil
		}
		_, _ = one.Discard(len(p))
		_, _ = other.Discard(len(q))
	}
}

func notEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

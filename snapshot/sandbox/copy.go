package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// copyTree gives the directory dst, which exists, the content, owner, mode, times and extended attributes of src: files, hard
// links within the tree, symbolic links, devices and fifos.
func copyTree(src, dst string) error {
	linked := make(map[uint64]string) // inode with several names -> first copy
	var dirs []string                 // as seen, parents first
	err := filepath.WalkDir(src, func(from string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, from)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		if e.IsDir() {
			dirs = append(dirs, rel)
			if rel == "." {
				return nil
			}
			return os.Mkdir(to, 0o700)
		}
		return copyEntry(from, to, e, linked)
	})
	if err != nil {
		return err
	}
	// What was put into a directory changed its times.
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := sys.CopyMeta(filepath.Join(src, dirs[i]), filepath.Join(dst, dirs[i])); err != nil {
			return err
		}
	}
	return nil
}

func copyEntry(from, to string, e fs.DirEntry, linked map[uint64]string) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		if first, ok := linked[st.Ino]; ok {
			return os.Link(first, to)
		}
		linked[st.Ino] = to
	}
	switch t := e.Type(); {
	case t.IsRegular():
		return copyFile(from, to)
	case t&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	case t&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0:
		if err := sys.Mknod(to, info); err != nil {
			return err
		}
	default:
		return fmt.Errorf("copy %s: a %s", from, t)
	}
	return sys.CopyMeta(from, to)
}

// copyFile copies a regular file with its metadata.
func copyFile(from, to string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return sys.CopyMeta(from, to)
}

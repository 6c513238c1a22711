package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// CopyMeta gives dst, which exists and is of the same type, the owner, mode, extended attributes and modification time
// of src. Symbolic links are not followed.
func CopyMeta(src, dst string) error {
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: src, Err: err}
	}
	if err := unix.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return &os.PathError{Op: "chown", Path: dst, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(dst, st.Mode&^unix.S_IFMT); err != nil { // after chown, which clears set-id bits
			return &os.PathError{Op: "chmod", Path: dst, Err: err}
		}
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, dst, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set times", Path: dst, Err: err}
	}
	return nil
}

func copyXattrs(src, dst string) error {
	size, err := unix.Llistxattr(src, nil)
	if errors.Is(err, unix.ENOTSUP) || (err == nil && size == 0) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "list attributes", Path: src, Err: err}
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(src, names); err != nil {
		return &os.PathError{Op: "list attributes", Path: src, Err: err}
	}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:size], []byte{0}), []byte{0}) {
		if err := copyXattr(src, dst, string(name)); err != nil {
			return err
		}
	}
	return nil
}

func copyXattr(src, dst, name string) error {
	value := make([]byte, 64<<10) // the largest that the kernel takes
	n, err := unix.Lgetxattr(src, name, value)
	if err != nil {
		return fmt.Errorf("attribute %s of %s: %w", name, src, err)
	}
	err = unix.Lsetxattr(dst, name, value[:n], 0)
	if errors.Is(err, unix.ENOTSUP) { // the destination's file system has no such kind of attribute
		return nil
	}
	if err != nil {
		return fmt.Errorf("attribute %s of %s: %w", name, dst, err)
	}
	return nil
}

// Mknod makes a device node, fifo or socket like the one that info, of os.Lstat, describes.
func Mknod(path string, info os.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("mknod %s: no device number", path)
	}
	if err := unix.Mknod(path, st.Mode, int(st.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return nil
}

package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir is an open directory in which things are made by name. It is for trees that nobody else changes: symbolic links on
// the way to a name are followed.
type Dir int

// DirOf returns the directory that f is open on, which may be a mere O_PATH; f must stay open.
func DirOf(f *os.File) Dir { return Dir(f.Fd()) }

func (d Dir) failed(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

// Mkdir makes a directory. The process's umask counts, here and below.
func (d Dir) Mkdir(name string, mode uint32) error {
	return d.failed("mkdirat", name, unix.Mkdirat(int(d), name, mode))
}

// Mknod makes a device node, fifo or socket.
func (d Dir) Mknod(name string, mode uint32, rdev uint64) error {
	return d.failed("mknodat", name, unix.Mknodat(int(d), name, mode, int(rdev)))
}

// Symlink makes a symbolic link.
func (d Dir) Symlink(target, name string) error {
	return d.failed("symlinkat", name, unix.Symlinkat(target, int(d), name))
}

// Link gives the file at old another name.
func (d Dir) Link(old, name string) error {
	return d.failed("linkat", name, unix.Linkat(int(d), old, int(d), name, 0))
}

// Create makes a regular file, open for writing.
func (d Dir) Create(name string, mode uint32) (*os.File, error) {
	fd, err := retryInterrupted(func() (int, error) {
		return unix.Openat(int(d), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
	})
	if err != nil {
		return nil, d.failed("openat", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// WriteFile makes a regular file with the content.
func (d Dir) WriteFile(name string, content []byte, mode uint32) error {
	return d.write(name, content, unix.O_CREAT|unix.O_EXCL, mode)
}

// Rewrite replaces the content of a regular file.
func (d Dir) Rewrite(name string, content []byte) error {
	return d.write(name, content, unix.O_TRUNC, 0)
}

func (d Dir) write(name string, content []byte, flags int, mode uint32) error {
	fd, err := retryInterrupted(func() (int, error) {
		return unix.Openat(int(d), name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, mode)
	})
	if err != nil {
		return d.failed("openat", name, err)
	}
	for rest := content; len(rest) > 0; {
		n, err := retryInterrupted(func() (int, error) { return unix.Write(fd, rest) })
		if err != nil {
			return d.failed("write", name, errors.Join(err, unix.Close(fd)))
		}
		rest = rest[n:]
	}
	return d.failed("close", name, unix.Close(fd))
}

// Chown changes the owner of what is at name; a symbolic link's own.
func (d Dir) Chown(name string, uid, gid uint32) error {
	return d.failed("fchownat", name, unix.Fchownat(int(d), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW))
}

// Chmod changes the mode of what is at name, which must be no symbolic link; "." is the directory itself.
func (d Dir) Chmod(name string, mode uint32) error {
	return d.failed("fchmodat", name, unix.Fchmodat(int(d), name, mode, 0))
}

// Chtimes changes the times of what is at name; a symbolic link's own.
func (d Dir) Chtimes(name string, atime, mtime syscall.Timespec) error {
	times := []unix.Timespec{unix.Timespec(atime), unix.Timespec(mtime)}
	return d.failed("utimensat", name, unix.UtimesNanoAt(int(d), name, times, unix.AT_SYMLINK_NOFOLLOW))
}

// SetXattr sets an extended attribute of what is at name; a symbolic link's own. A file system without attributes of that
// kind is left as it is.
func (d Dir) SetXattr(name, attr string, value []byte) error {
	err := SetXattr("/proc/self/fd/"+strconv.Itoa(int(d))+"/"+name, attr, value)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

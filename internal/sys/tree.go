package sys

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenInRoot opens path below the directory root. Symbolic links and ".." on the way are resolved as a process with
// that root directory would see them, so that nothing outside is reached; magic links are refused. Linux 5.6.
func OpenInRoot(root *os.File, path string, flags int) (*os.File, error) {
	fd, err := retryInterrupted(func() (int, error) {
		return unix.Openat2(int(root.Fd()), path, &unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	})
	if err != nil {
		return nil, fmt.Errorf("openat2 %s in %s: %w", path, root.Name(), err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// FDPath returns a path that names an entry of the open directory whatever becomes of the directory's own path. With
// an empty name it is the directory itself.
func FDPath(dir *os.File, name string) string {
	p := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd()))
	if name != "" {
		p += "/" + name
	}
	return p
}

// MountRoot says whether path is the root of a mount. A symbolic link is not followed. Linux 5.8.
func MountRoot(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	if err != nil {
		return false, fmt.Errorf("statx %s: %w", path, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, fmt.Errorf("statx %s: the kernel does not say whether it is a mount", path)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// DeviceNumbers returns the major and minor number of a device number of stat.
func DeviceNumbers(rdev uint64) (major, minor uint32) { return unix.Major(rdev), unix.Minor(rdev) }

// SyncFS makes everything on the file system that holds path durable.
func SyncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", path, err)
	}
	return nil
}

package sys

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ScratchFS is a tmpfs that is mounted nowhere: only its descriptor leads to it, and with that it is gone, whoever dies.
type ScratchFS struct{ root *os.File }

// NewScratchFS makes a tmpfs of at most size bytes that only root can enter. It needs Linux 5.2.
func NewScratchFS(size int64) (*ScratchFS, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"size", strconv.FormatInt(size, 10)}, {"mode", "0700"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("tmpfs option %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("make tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount tmpfs: %w", err)
	}
	return &ScratchFS{os.NewFile(uintptr(fd), "tmpfs")}, nil
}

// Dir is the path of the root directory, for this process and while it is open.
func (s *ScratchFS) Dir() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.root.Fd()) }

// Close gives the file system up. Closing nil or twice is no error.
func (s *ScratchFS) Close() error {
	if s == nil || s.root == nil {
		return nil
	}
	f := s.root
	s.root = nil
	return f.Close()
}

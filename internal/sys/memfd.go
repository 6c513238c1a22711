package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Memfd returns a file that lies in memory, is found under no path, and is gone with its last descriptor.
func Memfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

package sandbox

import (
	"errors"
	"os"
	"syscall"
)

// Control files are read and written by plain system calls: the os package would first ask the kernel to wait for each.

// openControl opens a control file; it must be closed.
func openControl(name string, flags int) (fd int, err error) {
	for {
		if fd, err = syscall.Open(name, flags|syscall.O_CLOEXEC, 0); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// readControl returns what a control file of a page at most says.
func readControl(name string) (string, error) {
	fd, err := openControl(name, syscall.O_RDONLY)
	if err != nil {
		return "", err
	}
	b := make([]byte, 4096)
	n, err := syscall.Read(fd, b)
	err = errors.Join(err, syscall.Close(fd))
	if err != nil {
		return "", &os.PathError{Op: "read", Path: name, Err: err}
	}
	return string(b[:n]), nil
}

// writeControl writes a control file in one go.
func writeControl(name, value string) error {
	fd, err := openControl(name, syscall.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = syscall.Write(fd, []byte(value))
	if err = errors.Join(err, syscall.Close(fd)); err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

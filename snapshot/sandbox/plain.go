package sandbox

import (
	"errors"
	"os"
	"syscall"
)

// Small files, of the kernel's and of our own, are read and written by plain system calls: the os package would make twice as
// many, to have each file waited for.

// openPlain opens a file, which is to be closed.
func openPlain(name string, flags int) (fd int, err error) {
	for {
		if fd, err = syscall.Open(name, flags|syscall.O_CLOEXEC, 0o600); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// fetch returns what is in a file of a page at most.
func fetch(name string) (string, error) {
	fd, err := openPlain(name, syscall.O_RDONLY)
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

// store writes to a file from its beginning, in one go. The flags say whether it is made.
func store(name, value string, flags int) error {
	fd, err := openPlain(name, syscall.O_WRONLY|flags)
	if err != nil {
		return err
	}
	_, err = syscall.Write(fd, []byte(value))
	if err = errors.Join(err, syscall.Close(fd)); err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

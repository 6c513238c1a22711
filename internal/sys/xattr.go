package sys

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Xattrs returns the extended attributes of path, which is not followed when it is a symbolic link. A file system
// without extended attributes has none.
func Xattrs(path string) (map[string][]byte, error) {
	list, err := growingBuffer(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("llistxattr %s: %w", path, err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	attrs := make(map[string][]byte)
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		value, err := growingBuffer(func(b []byte) (int, error) { return unix.Lgetxattr(path, string(name), b) })
		switch {
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
			continue // gone meanwhile, or a name that the kernel lists and does not serve
		case err != nil:
			return nil, fmt.Errorf("lgetxattr %s %s: %w", path, name, err)
		}
		attrs[string(name)] = value
	}
	return attrs, nil
}

// growingBuffer calls get with larger and larger buffers until the answer fits.
func growingBuffer(get func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := retryInterrupted(func() (int, error) { return get(b) })
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
	}
}

func retryInterrupted(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// SetXattr sets an extended attribute of path, which is not followed when it is a symbolic link.
func SetXattr(path, name string, value []byte) error {
	if err := unix.Lsetxattr(path, name, value, 0); err != nil {
		return fmt.Errorf("lsetxattr %s %s: %w", path, name, err)
	}
	return nil
}

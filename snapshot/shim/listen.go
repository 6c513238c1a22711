package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Socket is the listening socket of a shim.
type Socket struct {
	*net.UnixListener
	path string
}

// Listen makes the socket at path, mode 0600, in place of one that a dead shim left. Whoever starts a shim holds its
// group's lock until the shim listens ([Spawn] does), so no other shim listens there.
func Listen(path string) (*Socket, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: throughDir(dir, path), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // by its own path, and only by Retire
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return &Socket{l, path}, nil
}

// Retire takes the socket away, and an empty log beside it, unless somebody is about to use this shim. The group's lock is then held until the
// process ends: whoever wants a shim of the group waits for that, and starts a new one.
func (s *Socket) Retire() bool {
	l, err := tryLock(lockOf(s.path))
	if errors.Is(err, fs.ErrNotExist) {
		return true // its directory is gone: nobody can find this shim any more
	}
	if err != nil {
		return false
	}
	os.Remove(s.path)
	if log := logOf(s.path); empty(log) {
		os.Remove(log)
	}
	l.remove()
	return true
}

func empty(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == 0
}

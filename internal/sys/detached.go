package sys

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DetachedMount is a mount that is in no mount namespace: nobody sees it, and it is gone when the last descriptor of it is
// closed. A process with a descriptor of it can put it into its own mount namespace with move_mount(2), once. Linux 5.12.
type DetachedMount struct{ f *os.File }

// NewDetached makes a mount of a fresh file system.
func NewDetached(fstype string, options []MountOption, flags MountFlags) (*DetachedMount, error) {
	fs, err := newContext(fstype)
	if err != nil {
		return nil, err
	}
	defer fs.close()
	if err := fs.set(MountOption{"source", fstype}); err != nil {
		return nil, err
	}
	if err := fs.set(options...); err != nil {
		return nil, err
	}
	return fs.mount(flags)
}

// NewDetachedOverlay makes an overlay of lower, topmost first, and upper, both of which stay what they are below it. Without
// upper and work it is read-only, and takes two directories at least. It asks for each lower directory by itself as
// [MountOverlay] does.
func NewDetachedOverlay(lower []string, upper, work string, options []MountOption, flags MountFlags) (*DetachedMount, error) {
	m, err := newDetachedOverlay(lower, upper, work, options, flags, true)
	if errors.Is(err, unix.EINVAL) {
		m, err = newDetachedOverlay(lower, upper, work, options, flags, false)
	}
	return m, err
}

func newDetachedOverlay(lower []string, upper, work string, options []MountOption, flags MountFlags, each bool) (*DetachedMount, error) {
	fs, err := newContext("overlay")
	if err != nil {
		return nil, err
	}
	defer fs.close()
	one := func(key, value string) error { return fs.set(MountOption{key, value}) }
	if err := setLower(one, lower, each); err != nil {
		return nil, err
	}
	if upper != "" {
		if err := fs.set(MountOption{"upperdir", upper}, MountOption{"workdir", work}); err != nil {
			return nil, err
		}
	}
	if err := fs.set(options...); err != nil {
		return nil, err
	}
	return fs.mount(flags)
}

// DetachedBind makes a mount of what path shows, without what is mounted below it: a bind of it. Symbolic links are followed.
func DetachedBind(path string, flags MountFlags) (*DetachedMount, error) {
	fd, err := retryInterrupted(func() (int, error) {
		return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	})
	if err != nil {
		return nil, mountErr("open_tree", path, err)
	}
	m := &DetachedMount{os.NewFile(uintptr(fd), path)}
	// A bind of a shared mount is in its peer group until it is told otherwise.
	if err := m.SetFlags(flags); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Again makes another mount of the same file system, with the same flags.
// Before Linux 6.15 only what is attached can be mounted again: EINVAL.
func (m *DetachedMount) Again() (*DetachedMount, error) {
	fd, err := retryInterrupted(func() (int, error) {
		return unix.OpenTree(int(m.f.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	})
	if err != nil {
		return nil, mountErr("open_tree", m.f.Name(), err)
	}
	return &DetachedMount{os.NewFile(uintptr(fd), m.f.Name())}, nil
}

// Part makes a mount of a file or directory in the root of m. Before Linux 6.15 only what is attached can be mounted again.
func (m *DetachedMount) Part(name string) (*DetachedMount, error) {
	fd, err := retryInterrupted(func() (int, error) {
		return unix.OpenTree(int(m.f.Fd()), name, unix.AT_SYMLINK_NOFOLLOW|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	})
	if err != nil {
		return nil, mountErr("open_tree", name, err)
	}
	return &DetachedMount{os.NewFile(uintptr(fd), name)}, nil
}

// AttachTo puts m at a path of another detached mount and what is attached to that. The path is as processes with on for
// their root would see it: no symbolic link leads out. Linux 6.15.
func (m *DetachedMount) AttachTo(on *DetachedMount, path string) error {
	at, err := retryInterrupted(func() (at int, err error) {
		for range 128 { // EAGAIN: something was renamed or mounted somewhere while ".." was being looked up
			at, err = unix.Openat2(int(on.f.Fd()), path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
				Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
			if err != unix.EAGAIN {
				break
			}
		}
		return at, err
	})
	if err != nil {
		return mountErr("openat2", path, err)
	}
	defer unix.Close(at)
	return mountErr("move_mount", path,
		unix.MoveMount(int(m.f.Fd()), "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// File returns the descriptor, which is the mount's own: it is the root directory of the mount, as O_PATH opens it.
func (m *DetachedMount) File() *os.File { return m.f }

// SetFlags gives the mount exactly these flags, and makes it private.
func (m *DetachedMount) SetFlags(flags MountFlags) error {
	a := flags.Attr()
	err := unix.MountSetattr(int(m.f.Fd()), "", unix.AT_EMPTY_PATH,
		&unix.MountAttr{Attr_set: a.Set, Attr_clr: a.Clear, Propagation: a.Propagation})
	return mountErr("mount_setattr", m.f.Name(), err)
}

// SetReadonly makes the file system itself read-only, for all of its mounts. Nothing on it may be open for writing.
func (m *DetachedMount) SetReadonly() error {
	fd, err := unix.Fspick(int(m.f.Fd()), "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return mountErr("fspick", m.f.Name(), err)
	}
	fs := &fsContext{fd, m.f.Name()}
	defer fs.close()
	if err := fs.set(MountOption{Key: "ro"}); err != nil {
		return err
	}
	return fs.failed("reconfigure", unix.FsconfigReconfigure(fd))
}

// Close gives the mount up, unless it was put somewhere or another process has a descriptor of it.
func (m *DetachedMount) Close() error { return m.f.Close() }

// fsContext is a file system in the making, or in the changing.
type fsContext struct {
	fd   int
	name string
}

func newContext(fstype string) (*fsContext, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, mountErr("fsopen", fstype, err)
	}
	return &fsContext{fd, fstype}, nil
}

func (c *fsContext) close() { _ = unix.Close(c.fd) }

func (c *fsContext) set(options ...MountOption) error {
	for _, o := range options {
		var err error
		if o.Value == "" {
			err = unix.FsconfigSetFlag(c.fd, o.Key)
		} else {
			err = unix.FsconfigSetString(c.fd, o.Key, o.Value)
		}
		if err != nil {
			return c.failed("set "+strings.TrimSuffix(o.Key+"="+o.Value, "="), err)
		}
	}
	return nil
}

func (c *fsContext) mount(flags MountFlags) (*DetachedMount, error) {
	if err := c.failed("make", unix.FsconfigCreate(c.fd)); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, int(flags))
	if err != nil {
		return nil, mountErr("fsmount", c.name, err)
	}
	return &DetachedMount{os.NewFile(uintptr(fd), c.name)}, nil
}

// failed adds what the kernel had to say to an error.
func (c *fsContext) failed(op string, err error) error {
	if err == nil {
		return nil
	}
	return mountErr(op+fsLog(c.fd), c.name, err)
}

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// StartPrivate makes cmd start in a mount namespace of its own. The process must call [Slave] before it mounts anything.
// It needs CAP_SYS_ADMIN.
func StartPrivate(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// Cloneflags, not Unshareflags: os/exec makes "/" recursively private after an unshare, and mounts that the host
	// makes later (a volume's file system) would not come through.
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNS
}

// Slave makes what the process mounts invisible outside of its mount namespace, for a process that [StartPrivate]
// started; in the host's own namespace it fails and changes nothing.
func Slave() error {
	var host, own syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/mnt", &own); err != nil {
		return fmt.Errorf("find the mount namespace: %w", err)
	}
	if os.Getppid() > 0 {
		err := syscall.Stat(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()), &host)
		if err == nil && host.Ino == own.Ino {
			return errors.New("make mounts private: the process shares its parent's mount namespace")
		}
	}
	return sys.Slave()
}

// MountOverlay mounts an overlay of the directories lower, topmost first, under upper at target. All three of target, upper
// and work are made where they are missing, the latter two with mode 0700 for work and that of the topmost lower
// directory's root for upper, since the upper directory's mode is that of the container's "/".
//
// The mount is in a peer group of its own: CRIU can make a container's root a slave, which it is wherever the host's
// mounts are shared (systemd), only of a shared mount.
func MountOverlay(target string, lower []string, upper, work string) error {
	if len(lower) == 0 {
		return fmt.Errorf("mount overlay %s: no lower directory", target)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	if err := makeUpper(upper, lower[0]); err != nil {
		return err
	}
	if err := sys.MountOverlay(target, lower, upper, work); err != nil {
		return err
	}
	if err := sys.MakeShared(target); err != nil {
		return errors.Join(err, sys.Unmount(target))
	}
	return nil
}

func makeUpper(upper, lower string) error {
	switch err := os.Mkdir(upper, 0o700); {
	case err == nil:
		return sys.CopyMeta(lower, upper)
	case errors.Is(err, os.ErrExist):
		return nil
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(upper, 0o700); err != nil {
			return err
		}
		return sys.CopyMeta(lower, upper)
	default:
		return err
	}
}

// Unmount takes away the mount at target and all mounts below it. A target that is not mounted is no error.
func Unmount(target string) error {
	if err := sys.Unmount(target); err != nil && !sys.NotMounted(err) {
		return err
	}
	return nil
}

package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// HostnameOf returns the host name that the process pid sees: that of its UTS namespace. It needs CAP_SYS_ADMIN.
func HostnameOf(pid int) (string, error) {
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		return "", err
	}
	defer theirs.Close()
	var name string
	err = Aside(func() error {
		name, err = hostnameIn(theirs)
		return err
	})
	return name, err
}

func hostnameIn(uts *os.File) (string, error) {
	if err := unix.Setns(int(uts.Fd()), unix.CLONE_NEWUTS); err != nil {
		return "", fmt.Errorf("enter %s: %w", uts.Name(), err)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname in %s: %w", uts.Name(), err)
	}
	return unix.ByteSliceToString(u.Nodename[:]), nil
}

// SetHostname sets the host name in the uts namespace of a process. It does nothing when that namespace is our own:
// the process then shares the host's name.
func SetHostname(pid int, name string) error {
	path := fmt.Sprintf("/proc/%d/ns/uts", pid)
	theirs, err := os.Readlink(path)
	if err != nil {
		return fmt.Errorf("uts namespace of %d: %w", pid, err)
	}
	if ours, err := os.Readlink("/proc/self/ns/uts"); err != nil {
		return err
	} else if ours == theirs {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return Aside(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWUTS); err != nil {
			return fmt.Errorf("enter the uts namespace of %d: %w", pid, err)
		}
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("set the host name of %d: %w", pid, err)
		}
		return nil
	})
}

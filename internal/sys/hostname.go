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

package sys

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// HostnameOf returns the host name that the process pid sees: that of its UTS namespace. It needs CAP_SYS_ADMIN.
func HostnameOf(pid int) (string, error) {
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		return "", err
	}
	defer theirs.Close()
	home, err := os.Open("/proc/thread-self/ns/uts") // all our threads share one
	if err != nil {
		return "", err
	}
	defer home.Close()
	type answer struct {
		name string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		// A thread that cannot come back stays locked, and ends with this goroutine.
		runtime.LockOSThread()
		name, err := hostnameIn(theirs)
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWUTS) == nil {
			runtime.UnlockOSThread()
		}
		done <- answer{name, err}
	}()
	a := <-done
	return a.name, a.err
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

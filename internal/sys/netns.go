package sys

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNewNetns calls f on a thread that is in a fresh network namespace, and hands it a descriptor of that namespace. The
// caller's namespace is untouched.
func InNewNetns(f func(ns *os.File) error) error {
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare network namespace", err)
		}
		ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("open network namespace", err)
		}
		return f(os.NewFile(uintptr(ns), "network namespace"))
	})
}

// InNetns calls f on a thread that is in the network namespace ns.
func InNetns(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns network namespace", err)
		}
		return f()
	})
}

// onOwnThread calls f on a locked thread, which is put back into the network namespace it came from; where that fails
// the thread is given up.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- os.NewSyscallError("open network namespace", err)
			return
		}
		defer func() { _ = unix.Close(home) }()
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

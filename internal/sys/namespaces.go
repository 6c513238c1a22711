package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// InNewNamespaces calls f on a thread that has been moved into fresh namespaces, a set of CLONE_NEW flags, and that ends
// with f: what f mounts or makes there goes with it. With CLONE_NEWNS nothing mounted there is seen outside. CLONE_NEWPID
// and CLONE_NEWTIME are for children of the thread only. f may be nil.
func InNewNamespaces(flags uintptr, f func() error) error {
	return Aside(func() error {
		if err := unix.Unshare(int(flags)); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if flags&unix.CLONE_NEWNS != 0 {
			if err := Slave(); err != nil {
				return err
			}
		}
		if f == nil {
			return nil
		}
		return f()
	})
}

package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// KernelRelease returns the release of the running kernel, as uname -r prints it.
func KernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clocks returns CLOCK_MONOTONIC and CLOCK_BOOTTIME as the calling process sees them.
func Clocks() (monotonic, boottime time.Duration, err error) {
	read := func(clock int32) time.Duration {
		var t unix.Timespec
		if e := unix.ClockGettime(clock, &t); e != nil && err == nil {
			err = e
		}
		return time.Duration(t.Nano())
	}
	return read(unix.CLOCK_MONOTONIC), read(unix.CLOCK_BOOTTIME), err
}

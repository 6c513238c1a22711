package capture

import (
	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// makeScratch makes a tmpfs for CRIU's images where there is memory for them. The tasks are frozen while CRIU writes, and
// to write to a disk's file system takes several times as long; the images are moved to the store when the tasks run
// again. Where memory is short, or the kernel has no detached mounts, CRIU writes to the staging directory.
func (s *session) makeScratch() {
	need, err1 := proc.Resident(s.Source.Pid)
	free, err2 := proc.AvailableMemory()
	if err1 != nil || err2 != nil || need > free/3 {
		return
	}
	if fast, err := sys.NewScratchFS(free / 2); err == nil {
		s.fast = fast
	}
}

// scratch is the directory for CRIU's images and its work.
func (s *session) scratch() string {
	if s.fast != nil {
		return s.fast.Dir()
	}
	return s.txn.Dir()
}

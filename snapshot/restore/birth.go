package restore

import (
	"runtime"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
)

// tool returns the engine's tool, with CRIU and all that it restores born in the clone's cgroup.
func (s *session) tool() criu.Tool {
	t := s.Tool
	launch := t.Launch
	if launch == nil {
		launch = onThisThread
	}
	t.Launch = func(start func() error) error {
		return launch(func() (err error) {
			s.born, err = s.cgroup.Within(start)
			return err
		})
	}
	return t
}

func onThisThread(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return f()
}

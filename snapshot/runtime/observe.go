package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Observe fills in what the spec and the kernel say about a container of which Runtime, ID, Pid, Spec and Bundle are
// set: everything else but Name and Image. Entries that Volumes has already are kept; Upper and Lower, if set, are used
// where the kernel's own answer cannot be followed.
func Observe(s *Source) error { return observe(s, nil) }

// observe is Observe for an engine that keeps files which it generated for this container below the directories own.
func observe(s *Source, own []string) error {
	p, err := live(s.on(), s.Pid, 0)
	if err != nil {
		return err
	}
	if p.inner != 1 || p.depth < 2 {
		return failure(snapshot.KindUncloneable, s.on(),
			fmt.Errorf("process %d is not the init of a pid namespace of its own", s.Pid),
			"start the container without --pid=host, --pid=container:… or a shared process namespace")
	}
	var spec specs.Spec
	if err := json.Unmarshal(s.Spec, &spec); err != nil {
		return failure(snapshot.KindFailed, s.on(), fmt.Errorf("decode its OCI spec: %w", err), "")
	}
	if spec.Process == nil || spec.Root == nil {
		return failure(snapshot.KindFailed, s.on(), errors.New("its OCI spec has no process or no root"), "")
	}
	s.Args, s.TTY = spec.Process.Args, spec.Process.Terminal
	s.Rootfs = absolute(s.Bundle, spec.Root.Path)

	for _, step := range []func() error{
		func() error { return s.observeMounts(&spec, own) },
		func() error { return s.observeCgroup(&spec) },
		func() error { return s.observeNetwork() },
		func() (err error) { s.Hostname, err = sys.HostnameOf(s.Pid); return err },
	} {
		if err := step(); err != nil {
			return s.explain(err, p.start)
		}
	}
	// What was read is of one process only if that process is still there.
	_, err = live(s.on(), s.Pid, p.start)
	return err
}

// explain says that the container has exited where that is why reading about it failed.
func (s *Source) explain(err error, start uint64) error {
	if _, gone := live(s.on(), s.Pid, start); gone != nil {
		return gone
	}
	if _, ok := errors.AsType[*snapshot.Error](err); ok {
		return err
	}
	return failure(snapshot.KindFailed, s.on(), err, "")
}

// on is how errors name the container.
func (s *Source) on() string {
	if s.Name != "" {
		return s.Runtime + ":" + s.Name
	}
	return s.Runtime + ":" + s.ID
}

// loadSpec reads the bundle's config.json.
func (s *Source) loadSpec(bundle string) error {
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return failure(snapshot.KindFailed, s.on(), fmt.Errorf("read its OCI spec: %w", err),
			"the bundle must stay where it was when the container was started")
	}
	s.Spec, s.Bundle = b, bundle
	return nil
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

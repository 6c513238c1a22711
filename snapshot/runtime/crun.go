package runtime

import (
	"context"
	"os"
	"path/filepath"
)

// Crun finds containers that were started with crun itself. A ref is an id or the beginning of one, or the absolute
// path of a state directory.
type Crun struct {
	Roots []string // crun's --root directories; empty: the default ones
}

// Name returns "crun".
func (Crun) Name() string { return "crun" }

// Find implements [Runtime].
func (c Crun) Find(_ context.Context, ref string) (*Source, error) {
	roots := c.Roots
	if len(roots) == 0 {
		roots = defaultRoots("crun")
	}
	dir, err := findDir("crun", roots, ref)
	if err != nil {
		return nil, err
	}
	s := &Source{Runtime: "crun", ID: filepath.Base(dir)}
	var status struct {
		Pid    int    `json:"pid"`
		Start  uint64 `json:"process-start-time"`
		Bundle string `json:"bundle"`
	}
	if err := readJSON(s.on(), filepath.Join(dir, "status"), &status); err != nil {
		return nil, err
	}
	if _, err := live(s.on(), status.Pid, status.Start); err != nil {
		return nil, err
	}
	if err := checkStarted(s.on(), dir); err != nil {
		return nil, err
	}
	s.Pid = status.Pid
	// crun keeps a copy of the spec, which outlives changes to the bundle; versions before 1.0 do not.
	if b, err := os.ReadFile(filepath.Join(dir, "config.json")); err == nil {
		s.Spec, s.Bundle = b, status.Bundle
	} else if err := s.loadSpec(status.Bundle); err != nil {
		return nil, err
	}
	return s, Observe(s)
}

package runtime

import (
	"context"
	"path/filepath"
	"strings"
)

// Runc finds containers that were started with runc itself. A ref is an id or the beginning of one, or the absolute
// path of a state directory.
type Runc struct {
	Roots []string // runc's --root directories; empty: the default ones
}

// Name returns "runc".
func (Runc) Name() string { return "runc" }

// Find implements [Runtime].
func (r Runc) Find(_ context.Context, ref string) (*Source, error) {
	roots := r.Roots
	if len(roots) == 0 {
		roots = defaultRoots("runc")
	}
	dir, err := findDir("runc", roots, ref)
	if err != nil {
		return nil, err
	}
	s := &Source{Runtime: "runc", ID: filepath.Base(dir)}
	// This is the part of libcontainer's state that has been the same since runc 1.0.
	var state struct {
		Pid    int    `json:"init_process_pid"`
		Start  uint64 `json:"init_process_start"`
		Config struct {
			Labels []string `json:"labels"`
		} `json:"config"`
	}
	if err := readJSON(s.on(), filepath.Join(dir, "state.json"), &state); err != nil {
		return nil, err
	}
	if _, err := live(s.on(), state.Pid, state.Start); err != nil {
		return nil, err
	}
	if err := checkStarted(s.on(), dir); err != nil {
		return nil, err
	}
	s.Pid = state.Pid
	var bundle string
	for _, label := range state.Config.Labels {
		if b, ok := strings.CutPrefix(label, "bundle="); ok {
			bundle = b
		}
	}
	if err := s.loadSpec(bundle); err != nil {
		return nil, err
	}
	return s, Observe(s)
}

package restore

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
)

// stdio makes what takes the place of the descriptors that the captured container had from outside: pipes whose other
// ends are read for the log, and a terminal in the place of a terminal.
func (s *session) stdio(context.Context) error {
	for _, read := range []**os.File{&s.out.Stdout, &s.out.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("pipe for the output of %s: %w", s.id, err)
		}
		*read = r
		s.write = append(s.write, w)
	}
	if !slices.ContainsFunc(s.r.Config.Stdio[:], isTerminal) {
		return nil
	}
	var err error
	s.out.TTY, s.terminal, err = sys.OpenTerminal()
	if err != nil {
		return fmt.Errorf("terminal of %s: %w", s.id, err)
	}
	return nil
}

func isTerminal(key string) bool { return strings.HasPrefix(key, "tty[") }

func (s *session) closeStdio(context.Context) error {
	for _, f := range []*os.File{s.out.Stdout, s.out.Stderr, s.out.TTY} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

// closeOurEnds closes the ends that only the clone may hold: its output ends when it does.
func (s *session) closeOurEnds() {
	for _, f := range append(s.write, s.terminal) {
		if f != nil {
			f.Close()
		}
	}
}

// inherit lists the descriptors that the clone gets from us in place of those which the container had from outside.
// What it returns as ours is to be closed after the restore.
func (s *session) inherit() (fds []criu.InheritFD, ours []*os.File, err error) {
	seen := make(map[string]bool)
	add := func(key string, f *os.File) {
		if key != "" && !seen[key] {
			seen[key] = true
			fds = append(fds, criu.InheritFD{Key: inheritKey(key), File: f})
		}
	}
	cfg := &s.r.Config
	if s.netns != nil {
		add(cfg.NetnsKey, s.netns.File())
	}
	for _, key := range cfg.Stdio {
		if isTerminal(key) {
			add(key, s.terminal)
		}
	}
	for i, f := range s.write {
		add(cfg.Stdio[i+1], f)
	}
	if cfg.Stdio[0] != "" && !seen[cfg.Stdio[0]] {
		// The clone's input is at its end from the start: nobody writes to it.
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		w.Close()
		add(cfg.Stdio[0], r)
		ours = append(ours, r)
	}
	return fds, ours, nil
}

// inheritKey is the name under which CRIU looks for a descriptor that it is to use as it is. It takes a file's for a path
// and cuts the leading slash off; under the whole name it would open the descriptor's file again, and insist on its
// being a regular one with the position that the captured one had.
func inheritKey(key string) string {
	if strings.HasPrefix(key, "file[") {
		return key[1:]
	}
	return key
}

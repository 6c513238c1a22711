package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// process is a process of which an adapter says that it is a container's init.
type process struct {
	pid, parent int
	start       uint64 // clock ticks since boot
	inner       int    // its id in the innermost pid namespace
	depth       int    // how many pid namespaces it is seen in from here
}

// live reads the process pid, which must be the one that started at the given time if start is not 0. The error is that
// the container on has exited when there is no such process.
func live(on string, pid int, start uint64) (process, error) {
	if pid <= 0 {
		return process{}, exited(on)
	}
	p := process{pid: pid}
	var err error
	if p.start, err = proc.StartTime(pid); err != nil {
		return process{}, exited(on)
	}
	if start != 0 && p.start != start || !proc.Alive(pid, p.start) {
		return process{}, exited(on)
	}
	// A dying process loses its namespaces some time before it becomes a zombie.
	if _, err := proc.NamespaceInode(pid, "mnt"); errors.Is(err, os.ErrNotExist) {
		return process{}, exited(on)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return process{}, exited(on)
	}
	if err := p.parseStatus(string(status)); err != nil {
		return process{}, failure(snapshot.KindFailed, on, fmt.Errorf("/proc/%d/status: %w", pid, err), "")
	}
	return p, nil
}

func (p *process) parseStatus(status string) error {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		var err error
		switch {
		case len(f) == 0:
		case key == "PPid":
			p.parent, err = strconv.Atoi(f[0])
		case key == "NSpid":
			p.depth = len(f)
			p.inner, err = strconv.Atoi(f[len(f)-1])
		}
		if err != nil {
			return err
		}
	}
	if p.depth == 0 {
		return errors.New("no NSpid line")
	}
	return nil
}

func exited(on string) error {
	return failure(snapshot.KindState, on, errors.New("the container has exited"),
		"only a running container can be captured; start it first")
}

// shimBundle returns the directory that containerd keeps for a container whose init has the shim parent: the shim's
// working directory, or a sibling of it when the shim looks after a whole pod.
func shimBundle(parent int, id string) (string, error) {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", parent))
	if err != nil {
		return "", err
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	if _, err := os.Stat(filepath.Join(bundle, "config.json")); err != nil {
		return "", err
	}
	return bundle, nil
}

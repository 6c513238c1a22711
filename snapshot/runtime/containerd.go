package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Containerd finds containers of containerd: ctr's, nerdctl's, those of Kubernetes. A ref is an id or the beginning of
// one, in any namespace; NAMESPACE/ID; or the absolute path of a task's bundle.
type Containerd struct {
	State string // containerd's state directory; empty: the default one
}

// Name returns "containerd".
func (Containerd) Name() string { return "containerd" }

// Find implements [Runtime].
func (c Containerd) Find(_ context.Context, ref string) (*Source, error) {
	dir, err := findDir("containerd", c.roots(ref), c.id(ref))
	if err != nil {
		return nil, err
	}
	s := &Source{Runtime: "containerd", ID: filepath.Base(dir)}
	b, err := os.ReadFile(filepath.Join(dir, "init.pid"))
	if err != nil {
		return nil, failure(snapshot.KindState, s.on(), errors.New("it has no running task"), "start the container first")
	}
	if s.Pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		return nil, failure(snapshot.KindFailed, s.on(), fmt.Errorf("init.pid: %w", err), "")
	}
	p, err := live(s.on(), s.Pid, 0)
	if err != nil {
		return nil, err
	}
	// A bundle stays when its shim was killed, and the pid may be anybody's by then.
	if mine, err := shimBundle(p.parent, s.ID); err != nil || !sameDir(mine, dir) {
		return nil, exited(s.on())
	}
	if err := s.loadSpec(dir); err != nil {
		return nil, err
	}
	return s, s.observeCRI()
}

func (c Containerd) roots(ref string) []string {
	state := c.State
	if state == "" {
		state = "/run/containerd"
	}
	namespace, _, ok := strings.Cut(ref, "/")
	if !ok || namespace == "" {
		namespace = "*"
	}
	const tasks = "io.containerd.runtime.v2.task"
	roots, _ := filepath.Glob(filepath.Join(state, tasks, namespace))
	if len(roots) == 0 {
		roots = []string{filepath.Join(state, tasks, namespace)} // for the message
	}
	return roots
}

func (c Containerd) id(ref string) string {
	if _, id, ok := strings.Cut(ref, "/"); ok && !filepath.IsAbs(ref) {
		return id
	}
	return ref
}

// observeCRI observes a container that may be one of Kubernetes, where the spec's annotations say more about it.
func (s *Source) observeCRI() error {
	var spec specs.Spec
	if err := json.Unmarshal(s.Spec, &spec); err != nil {
		return failure(snapshot.KindFailed, s.on(), fmt.Errorf("decode its OCI spec: %w", err), "")
	}
	s.Name = spec.Annotations["io.kubernetes.cri.container-name"]
	s.Image = spec.Annotations["io.kubernetes.cri.image-name"]
	var own []string
	for _, m := range spec.Mounts {
		if strings.Contains(m.Source, "/io.containerd.grpc.v1.cri/") || strings.HasPrefix(m.Source, "/var/lib/kubelet/pods/") &&
			m.Destination == "/etc/hosts" {
			own = append(own, m.Source)
		}
	}
	return observe(s, own)
}

func sameDir(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

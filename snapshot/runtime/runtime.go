// Package runtime finds a running container of another runtime, so that it can be captured.
//
// An adapter reads what its runtime keeps about a container: state files where they are plain and stable (runc, crun,
// containerd), the engine's own answer where they are not (docker over its socket, podman through its inspect command).
// Everything that the kernel knows better (mounts, cgroup, limits, network) is read from the kernel. Nothing here changes
// a container or its runtime's state.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Source is a running container as the capture needs to see it.
type Source struct {
	Runtime  string // "runc", "crun", "docker", "containerd", "podman" or "own"
	ID       string
	Name     string // empty where the runtime knows no names
	Image    string // as the runtime names it, empty where it does not say
	Hostname string // what gethostname says inside

	Pid    int      // init as the host sees it; always the init of a pid namespace
	Spec   []byte   // OCI runtime spec, config.json as the runtime wrote it
	Bundle string   // directory of config.json, against which relative paths in it are meant
	Args   []string // of init
	TTY    bool     // init was given a terminal

	// Upper is the directory with the container's own files, the upper layer of its overlay; "" when the root file
	// system is not an overlay of which all directories can be seen from here. Lower are the layers beneath, topmost
	// first; without Upper it is the root file system itself, alone.
	Upper  string
	Lower  []string
	Rootfs string // as the runtime names it
	// Overlay has the overlay's other options as the kernel prints them ("metacopy=on", "userxattr"); an upper layer
	// with metacopy=on or redirect_dir=on cannot be read without its lower layers.
	Overlay []string

	Files   map[string]bool   // container paths that the runtime generated and bind-mounted: /etc/resolv.conf, …
	Volumes map[string]string // container path -> host path of volumes and binds that the user asked for

	Cgroup  string           // below the root of the hierarchy; v1: the memory controller's, v2: the unified one
	Network snapshot.Network // as seen inside; Mode "host" when the namespace is this process's own
	Limits  snapshot.Limits  // of the container's own cgroup
}

// Runtime is one container runtime.
type Runtime interface {
	Name() string
	// Find returns the running container that ref names: an id, a unique beginning of one, or a name. The error is of
	// kind not-found, invalid (several match), state (it does not run), not-cloneable (it has no pid namespace of its
	// own), or unreachable (the engine does not answer).
	Find(ctx context.Context, ref string) (*Source, error)
}

// All returns the adapters of all runtimes, by name, each looking where its runtime keeps its state by default.
func All() map[string]Runtime {
	m := make(map[string]Runtime)
	for _, r := range []Runtime{Runc{}, Crun{}, Docker{}, Containerd{}, Podman{}} {
		m[r.Name()] = r
	}
	return m
}

// Parse splits "RUNTIME:REF", the form in which users name a container of another runtime: "docker:ID",
// "containerd:NAMESPACE/ID". It knows the runtimes of [All].
func Parse(s string) (runtimeName, ref string, err error) {
	runtimeName, ref, ok := strings.Cut(s, ":")
	if _, known := All()[runtimeName]; !ok || !known || ref == "" {
		names := slices.Sorted(maps.Keys(All()))
		return "", "", &snapshot.Error{Kind: snapshot.KindInvalid, Op: "find", On: fmt.Sprintf("%q", s),
			Err:  errors.New("not of the form RUNTIME:CONTAINER"),
			Hint: "RUNTIME is one of " + strings.Join(names, ", ") + "; for example docker:web or containerd:default/web"}
	}
	return runtimeName, ref, nil
}

func failure(kind snapshot.Kind, on string, err error, hint string) error {
	return &snapshot.Error{Kind: kind, Op: "find container", On: on, Err: err, Hint: hint}
}

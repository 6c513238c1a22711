package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/internal/probe"
)

// TestProbesAnswer runs all probes on this host: each says yes, or no with a reason and a remedy.
func TestProbesAnswer(t *testing.T) {
	probes := append(probe.Host(), probe.StateDir(t.TempDir()))
	names := make(map[string]bool)
	for _, r := range probe.Run(t.Context(), probes) {
		if r.Name == "" || r.Need == "" || names[r.Name] {
			t.Errorf("probe %q has no name or need, or is there twice", r.Name)
		}
		names[r.Name] = true
		if r.Err == nil {
			continue
		}
		n, ok := errors.AsType[*probe.NotSupported](r.Err)
		if !ok {
			t.Errorf("%s could not find out: %v", r.Name, r.Err)
			continue
		}
		if n.Name != r.Name || n.Why == "" || n.Remedy == "" || !errors.Is(r.Err, probe.ErrNotSupported) {
			t.Errorf("%s: %+v is not a full answer", r.Name, n)
		}
		t.Logf("%s: %v", r.Name, r.Err)
	}
}

// TestProbesLeaveNothing compares the host before and after.
func TestProbesLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	state := t.TempDir()
	probes := append(probe.Host(), probe.StateDir(state), probe.StateDir(filepath.Join(state, "not", "there")))
	// A first run loads kernel modules and starts the threads that stay.
	probe.Run(t.Context(), probes)
	before := traces(t, dir, state)
	probe.Run(t.Context(), probes)
	if d := cmp.Diff(before, traces(t, dir, state)); d != "" {
		t.Errorf("(-before +after):\n%s", d)
	}
}

// traces lists what a probe could leave. Other tests run on the same host at the same time: only names that probes give count
// where the host is shared.
func traces(t *testing.T, dirs ...string) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	for _, link := range []string{"mnt", "net", "ipc", "uts", "pid", "cgroup", "time"} {
		target, err := os.Readlink("/proc/self/ns/" + link)
		if err != nil {
			t.Fatal(err)
		}
		found["own "+link] = []string{target}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "snapd-ctr-probe") {
			found["mounts"] = append(found["mounts"], line)
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found["descriptors"] = []string{fmt.Sprint(len(fds))}
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name(), "probe") {
			found["interfaces"] = append(found["interfaces"], l.Name())
		}
	}
	for _, d := range append(dirs, "/sys/fs/cgroup") {
		found["paths"] = append(found["paths"], pathsIn(d)...)
	}
	return found
}

func pathsIn(dir string) []string {
	var paths []string
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, "snapd-ctr-probe") {
			paths = append(paths, path)
		}
		return nil
	})
	return paths
}

func TestRunStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	ran := 0
	one := probe.Probe{Name: "one", Run: func(context.Context) error {
		ran++
		cancel(why)
		return nil
	}}
	results := probe.Run(ctx, []probe.Probe{one, one})
	if ran != 1 || results[0].Err != nil || !errors.Is(results[1].Err, why) {
		t.Errorf("%d ran, errors %v and %v", ran, results[0].Err, results[1].Err)
	}
}

func TestStateDirRefusesProc(t *testing.T) {
	if err := probe.StateDir("/proc/self").Run(t.Context()); !errors.Is(err, probe.ErrNotSupported) {
		t.Errorf("procfs as a state directory: %v", err)
	}
}

func TestCRIU(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"good", nil, ""},
		{"broken", errors.New("no vdso"), "no vdso"},
		{"not supported", &probe.NotSupported{Name: "criu", Why: "too old", Remedy: "install another"}, "too old"},
	} {
		err := probe.CRIU(func(context.Context) error { return c.err }).Run(t.Context())
		if c.err == nil {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if n, ok := errors.AsType[*probe.NotSupported](err); !ok || n.Why != c.want || n.Remedy == "" {
			t.Errorf("%s: %v, want the reason %q and a remedy", c.name, err, c.want)
		}
	}
}

// TestRequired names what must not be demoted by accident.
func TestRequired(t *testing.T) {
	var required []string
	for _, p := range probe.Host() {
		if p.Required {
			required = append(required, p.Name)
		}
	}
	for _, name := range []string{"privileges", "namespace-pid", "namespace-mnt", "namespace-net", "clone3-set-tid", "overlayfs", "cgroups"} {
		if !slices.Contains(required, name) {
			t.Errorf("%s is not required", name)
		}
	}
}

// TestTemplate names what the template engine asks for before it builds anything.
func TestTemplate(t *testing.T) {
	var names []string
	for _, p := range probe.Template() {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	want := []string{"clone-parent", "clone3-set-tid", "detached-mounts", "mount-api", "namespace-time", "seccomp-tsync"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

func TestStub(t *testing.T) {
	why := errors.New("not there")
	err := probe.Stub(func(context.Context) error { return why }).Run(t.Context())
	if n, ok := errors.AsType[*probe.NotSupported](err); !ok || n.Why != why.Error() || n.Remedy == "" {
		t.Errorf("%v, want the reason and a remedy", err)
	}
	if err := probe.Stub(func(context.Context) error { return nil }).Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSimulated has the probes answer as on another host.
func TestSimulated(t *testing.T) {
	if os.Getenv(fault.Variable) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestSimulated$")
		cmd.Env = append(os.Environ(), fault.Variable+"=probe.pretended=error")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	p := probe.Probe{Name: "pretended", Run: func(context.Context) error { return nil }}
	if r := probe.Run(t.Context(), []probe.Probe{p}); !errors.Is(r[0].Err, probe.ErrNotSupported) {
		t.Errorf("%v, want that it is not supported", r[0].Err)
	}
}

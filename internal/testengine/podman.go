package testengine

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Podman is podman with storage of its own.
type Podman struct {
	Program string // a program named podman that keeps everything in this storage
	cgroup  string
}

// NewPodman returns a podman that has Image.
func NewPodman(t *testing.T) *Podman {
	t.Helper()
	need(t, "podman", "conmon")
	real, err := exec.LookPath("podman")
	if err != nil {
		t.Fatal(err)
	}
	dir := Dir(t)
	p := &Podman{Program: dir + "/bin/podman", cgroup: Cgroup(t)}
	if err := os.Mkdir(dir+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s --root %s/root --runroot %s/run --tmpdir %s/tmp --cgroup-manager cgroupfs "+
		"--events-backend none --storage-driver overlay \"$@\"\n", real, dir, dir, dir)
	if err := os.WriteFile(p.Program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // podman binds it to itself and leaves it so, and conmon runs a podman when its container has ended
		Await(t, "the end of what podman started", func() error { return unnamed(dir) })
		for sys.Unmount(dir+"/root/overlay") == nil {
		}
	})
	p.Command(t, "load", "-q", "-i", imageArchive(t, dir))
	return p
}

// Command runs a command of podman and returns what it printed.
func (p *Podman) Command(t *testing.T, args ...string) string {
	t.Helper()
	return Command(t, p.Program, args...)
}

// Run starts a container that runs a shell script, with an OCI runtime ("crun", "runc") and options of `podman run`, and
// returns its id. crun refuses cgroup v1 where the v2 tree beside it has controllers, so it gets a mount namespace
// without that tree.
func (p *Podman) Run(t *testing.T, ociRuntime, name, script string, options ...string) (id string) {
	t.Helper()
	need(t, ociRuntime)
	all := slices.Concat([]string{p.Program, "--runtime", ociRuntime, "run", "-d", "--name", name,
		// podman's defaults are above what root may set without CAP_SYS_RESOURCE
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroup-parent", p.cgroup},
		options, []string{Image, "sh", "-c", script})
	atEnd(t, p.Program, "rm", "-f", "-t", "0", name)
	if b, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); ociRuntime == "crun" && err == nil && len(b) > 1 {
		const hide = `umount /sys/fs/cgroup/unified && exec "$@"`
		all = slices.Concat([]string{"unshare", "--mount", "sh", "-c", hide, "sh"}, all)
	}
	out := Command(t, all[0], all[1:]...)
	return out[strings.LastIndexByte(out, '\n')+1:] // warnings come first
}

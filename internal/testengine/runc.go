package testengine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Quiet are the descriptors of a container that talks to nobody.
const Quiet = "</dev/null >/dev/null 2>&1"

// Runc is runc with a state directory of its own.
type Runc struct {
	Dir    string // on a tmpfs; the test may keep bundles in it
	State  string // its state directory
	cgroup string
}

// NewRunc returns a runc.
func NewRunc(t *testing.T) *Runc {
	t.Helper()
	dir := Dir(t)
	return &Runc{Dir: dir, State: dir + "/state", cgroup: Cgroup(t)}
}

// Command runs a command of runc and returns what it printed.
func (r *Runc) Command(t *testing.T, args ...string) string {
	t.Helper()
	return Command(t, "runc", append([]string{"--root", r.State}, args...)...)
}

// Bundle makes an OCI bundle in dir, which exists, that runs a shell script in rootfs. change, where it is not nil, has
// the last word.
func (r *Runc) Bundle(t *testing.T, dir, rootfs, script string, change func(*specs.Spec)) string {
	t.Helper()
	r.Command(t, "spec", "--bundle", dir)
	b, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Process.Args, spec.Process.Terminal = []string{"sh", "-c", script}, false
	spec.Process.Rlimits = nil // above what root may set without CAP_SYS_RESOURCE
	spec.Root = &specs.Root{Path: rootfs}
	spec.Hostname = "inner"
	spec.Linux.CgroupsPath = r.cgroup + "/" + filepath.Base(dir)
	if change != nil {
		change(&spec)
	}
	write(t, dir+"/config.json", toJSON(t, spec))
	return dir
}

// Run starts a container. redirect is where its descriptors lead, in the shell's notation: runc hands on its own.
func (r *Runc) Run(t *testing.T, id, bundle, redirect string) {
	t.Helper()
	atEnd(t, "runc", "--root", r.State, "delete", "-f", id)
	Command(t, "sh", "-c", `exec "$@" `+redirect, "sh", "runc", "--root", r.State, "run", "-d", "--bundle", bundle, id)
}

package testengine

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"
)

// Containerd is a containerd without Kubernetes' plugin.
type Containerd struct {
	State  string // its state directory
	Cgroup string // of a container, but for /ID
	dir    string
}

// StartContainerd starts a containerd that has Image.
func StartContainerd(t *testing.T) *Containerd {
	t.Helper()
	need(t, "containerd", "ctr")
	dir := Dir(t)
	c := &Containerd{State: dir + "/state", Cgroup: Cgroup(t), dir: dir}
	write(t, dir+"/config.toml", fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
`, dir+"/data", c.State, dir+"/sock"))
	daemon(t, exec.Command("containerd", "-c", dir+"/config.toml"), dir+"/log", func() error {
		_, err := Try(t.Context(), "ctr", c.args("version")...)
		return err
	})
	c.Command(t, "image", "import", "--snapshotter", "overlayfs", imageArchive(t, dir))
	return c
}

func (c *Containerd) args(args ...string) []string {
	return append([]string{"-a", c.dir + "/sock", "-n", "test"}, args...)
}

// Command runs a command of ctr, in the namespace "test", and returns what it printed.
func (c *Containerd) Command(t *testing.T, args ...string) string {
	t.Helper()
	return Command(t, "ctr", c.args(args...)...)
}

// Run starts a container that runs a shell script, with options of `ctr run`.
func (c *Containerd) Run(t *testing.T, id, script string, options ...string) {
	t.Helper()
	atEnd(t, "ctr", c.args("container", "rm", id)...)
	atEnd(t, "ctr", c.args("task", "rm", "-f", id)...)
	c.Command(t, slices.Concat([]string{"run", "-d", "--snapshotter", "overlayfs", "--runc-root", c.dir + "/runc",
		"--fifo-dir", c.dir + "/fifo", "--cgroup", c.Cgroup + "/" + id}, options, []string{Image, id, "sh", "-c", script})...)
}

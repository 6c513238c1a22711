package testengine

import (
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Docker is a Docker engine. It is in a network namespace of its own, where it may make a bridge.
type Docker struct {
	Socket string // path
	Pid    int    // of the engine
}

// StartDocker starts an engine that keeps images with the storage driver ("overlay2", "vfs").
func StartDocker(t *testing.T, driver string) *Docker {
	t.Helper()
	need(t, "dockerd", "docker", "containerd")
	dir := Dir(t)
	d := &Docker{Socket: dir + "/sock"}
	write(t, dir+"/daemon.json", []byte("{}"))
	cmd := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"-H", "unix://"+d.Socket, "--iptables=false", "--ip6tables=false", "--storage-driver", driver,
		"--config-file", dir+"/daemon.json", "--cgroup-parent", Cgroup(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	t.Cleanup(func() { _ = sys.Unmount(dir + "/exec/netns/default") }) // the engine leaves its --network host behind
	daemon(t, cmd, dir+"/log", func() error {
		_, err := Try(t.Context(), "docker", d.args("version")...)
		return err
	})
	d.Pid = cmd.Process.Pid
	d.Command(t, "load", "-i", imageArchive(t, dir))
	return d
}

func (d *Docker) args(args ...string) []string {
	return append([]string{"-H", "unix://" + d.Socket}, args...)
}

// Command runs a command of docker and returns what it printed.
func (d *Docker) Command(t *testing.T, args ...string) string {
	t.Helper()
	return Command(t, "docker", d.args(args...)...)
}

// Run starts a container that runs a shell script, with options of `docker run`, and returns its id.
func (d *Docker) Run(t *testing.T, name, script string, options ...string) (id string) {
	t.Helper()
	atEnd(t, "docker", d.args("rm", "-f", "-v", name)...)
	return d.Command(t, slices.Concat([]string{"run", "-d", "--name", name}, options, []string{Image, "sh", "-c", script})...)
}

package api_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
)

// counting is what the containers of other runtimes run: it counts into a file, which it serves, and says each number.
// With BIND set it serves on the container's own address alone.
const counting = `mkdir -p /www; httpd -p ${BIND:+$(awk -v h=$(hostname) '$2==h{print $1}' /etc/hosts):}8080 -h /www; i=0; while :; do i=$((i+1)); echo $i > /www/count; echo $i; sleep 0.05; done`

func startDocker(t *testing.T, options ...string) (ref string) {
	t.Helper()
	engine := testengine.StartDocker(t, "overlay2")
	t.Setenv("DOCKER_HOST", "unix://"+engine.Socket)
	engine.Run(t, "web", counting, options...)
	return "docker:web"
}

func startPodman(t *testing.T, ociRuntime string, options ...string) (ref string) {
	t.Helper()
	engine := testengine.NewPodman(t)
	t.Setenv("PATH", filepath.Dir(engine.Program)+":"+os.Getenv("PATH"))
	engine.Run(t, ociRuntime, "web", counting, append(options, "--network", "none")...)
	return "podman:web"
}

func startContainerd(t *testing.T) (ref string) {
	t.Helper()
	engine := testengine.StartContainerd(t)
	engine.Run(t, "web", counting)
	return "containerd:" + engine.State + "/io.containerd.runtime.v2.task/test/web"
}

// runcOnTerminal starts a container whose descriptors are a terminal of the test's, as those of `runc run` in a shell are.
func runcOnTerminal(t *testing.T) (ref string) {
	t.Helper()
	master, slave, err := sys.OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, master) }()
	t.Cleanup(func() { slave.Close(); master.Close() })
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), slave.Fd())
	return startRunc(t, "<"+path+" >"+path+" 2>&1", nil)
}

func startRunc(t *testing.T, redirect string, change func(*specs.Spec)) (ref string) {
	t.Helper()
	engine := testengine.NewRunc(t)
	bundle := engine.Dir + "/web"
	if err := os.Mkdir(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	rootfs := testengine.Rootfs(t, bundle+"/rootfs")
	engine.Run(t, "web", engine.Bundle(t, bundle, rootfs, counting, change), redirect)
	return "runc:" + engine.State + "/web"
}

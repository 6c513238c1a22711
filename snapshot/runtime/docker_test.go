package runtime

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// dockerEngine starts an engine of the test's own, in a network namespace of its own, where it may make a bridge. It
// returns its socket, its process and a function that runs the client.
func dockerEngine(t *testing.T, driver string) (socket string, pid int, docker func(args ...string) string) {
	t.Helper()
	need(t, "dockerd", "docker", "containerd", "runc")
	dir := scratch(t)
	socket = filepath.Join(dir, "sock")
	cmd := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"-H", "unix://"+socket, "--iptables=false", "--ip6tables=false", "--storage-driver", driver,
		"--config-file", dir+"/daemon.json", "--cgroup-parent", testCgroup(t))
	write(t, dir+"/daemon.json", []byte("{}"), 0o600)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	docker = func(args ...string) string {
		return command(t, "docker", append([]string{"-H", "unix://" + socket}, args...)...)
	}
	t.Cleanup(func() { _ = sys.Unmount(dir + "/exec/netns/default") }) // the engine leaves its --network host behind
	daemon(t, cmd, dir+"/log", func() error {
		_, err := tryCommand(t.Context(), "docker", "-H", "unix://"+socket, "version")
		return err
	})
	root := busyboxRoot(t, dir+"/root")
	imageArchive(t, root, dir+"/image.tar")
	docker("load", "-i", dir+"/image.tar")
	return socket, cmd.Process.Pid, docker
}

func TestDocker(t *testing.T) {
	socket, engine, docker := dockerEngine(t, "overlay2")
	host := t.TempDir()
	id := docker("run", "-d", "--name", "web", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50",
		"-v", host+":/vol:ro", "-v", "named:/data", "localhost/counter", "sh", "-c", counter)
	t.Cleanup(func() { clean(t, "docker", "-H", "unix://"+socket, "rm", "-f", "-v", "web") })
	r := Docker{Socket: socket}

	s := find(t, r, "web", id, id[:10])
	if s.Name != "web" || s.Image != "localhost/counter" || s.Hostname != id[:12] || s.TTY || s.ID != id {
		t.Errorf("name %q, image %q, hostname %q, tty %v", s.Name, s.Image, s.Hostname, s.TTY)
	}
	if got := docker("inspect", "-f", "{{.State.Pid}}", "web"); got != fmt.Sprint(s.Pid) {
		t.Errorf("pid %d, docker says %s", s.Pid, got)
	}
	if got := docker("inspect", "-f", "{{.GraphDriver.Data.UpperDir}} {{.GraphDriver.Data.LowerDir}}", "web"); got != s.Upper+" "+strings.Join(s.Lower, ":") {
		t.Errorf("upper %s, lower %v, docker says %s", s.Upper, s.Lower, got)
	}
	wantLimits(t, s, snapshot.Limits{MemoryBytes: 64 << 20, CPUs: 0.5, Pids: 50})
	if s.Volumes["/vol"] != host || !strings.HasSuffix(s.Volumes["/data"], "/volumes/named/_data") || len(s.Volumes) != 2 {
		t.Errorf("volumes %v", s.Volumes)
	}
	if !s.Files["/etc/hosts"] || !s.Files["/etc/hostname"] || !s.Files["/etc/resolv.conf"] || len(s.Files) != 3 {
		t.Errorf("files %v", s.Files)
	}
	checkDockerNetwork(t, s, engine, docker)
	checkpoint(t, s)

	docker("pause", "web")
	wantKind(t, r, "web", snapshot.KindState)
	docker("unpause", "web")
	wantKind(t, r, "nobody", snapshot.KindNotFound)
	docker("kill", "web")
	wantKind(t, r, "web", snapshot.KindState)
}

func checkDockerNetwork(t *testing.T, s *Source, engine int, docker func(...string) string) {
	t.Helper()
	n := s.Network
	got := fmt.Sprintf("%s/%d %s %s", n.Address, n.Bits, n.Gateway, n.MAC)
	const format = "{{with .NetworkSettings}}{{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}} {{.MacAddress}}{{end}}"
	if want := docker("inspect", "-f", format, "web"); got != want || n.Mode != "bridge" || n.Bridge != "" {
		t.Errorf("network %q mode %q bridge %q, docker says %q", got, n.Mode, n.Bridge, want)
	}
	// The bridge can be told only from the namespace that it is in.
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", engine))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := sys.InNetns(ns, s.observeNetwork); err != nil {
		t.Fatal(err)
	}
	if s.Network.Bridge != "docker0" {
		t.Errorf("bridge %q", s.Network.Bridge)
	}
}

func TestDockerWithoutOverlay(t *testing.T) {
	socket, _, docker := dockerEngine(t, "vfs")
	docker("run", "-d", "-t", "--name", "plain", "--network", "none", "localhost/counter", "sh", "-c", counter)
	docker("run", "-d", "--name", "open", "--pid", "host", "--network", "none", "localhost/counter", "sh", "-c", counter)
	t.Cleanup(func() { clean(t, "docker", "-H", "unix://"+socket, "rm", "-f", "plain", "open") })
	s := find(t, Docker{Socket: socket}, "plain")
	if s.Upper != "" || !strings.Contains(s.Lower[0], "/vfs/dir/") || !s.TTY || s.Network.Mode != "none" {
		t.Errorf("upper %q, lower %v, tty %v, network %+v", s.Upper, s.Lower, s.TTY, s.Network)
	}
	wantKind(t, Docker{Socket: socket}, "open", snapshot.KindUncloneable)
}

func TestDockerAnswers(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		kind       snapshot.Kind
	}{
		{"several", `{"message":"Multiple IDs found with provided prefix: ab"}`, 400, snapshot.KindInvalid},
		{"refused", `{"message":"page not found"}`, 400, snapshot.KindInvalid},
		{"missing", `{"message":"No such container: ab"}`, 404, snapshot.KindNotFound},
		{"broken", `oops`, 500, snapshot.KindFailed},
		{"no json", `<html>`, 200, snapshot.KindFailed},
		{"exited", `{"Id":"ab","State":{"Status":"exited"}}`, 200, snapshot.KindState},
		{"created", `{"Id":"ab","State":{"Status":"created"}}`, 200, snapshot.KindState},
		{"restarting", `{"Id":"ab","State":{"Status":"restarting"}}`, 200, snapshot.KindState},
		{"no pid", `{"Id":"ab","State":{"Status":"running"}}`, 200, snapshot.KindState},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			serve(t, socket, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/containers/ab/json" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			wantKind(t, Docker{Socket: socket}, "ab", c.kind)
		})
	}
	wantKind(t, Docker{Socket: filepath.Join(t.TempDir(), "none")}, "ab", snapshot.KindUnreachable)
	t.Setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
	wantKind(t, Docker{}, "ab", snapshot.KindInvalid)
}

func serve(t *testing.T, socket string, h http.Handler) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	_ = server.Listener.Close()
	server.Listener = listenUnix(t, socket)
	server.Start()
	t.Cleanup(server.Close)
}

package runtime

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestDocker(t *testing.T) {
	engine := testengine.StartDocker(t, "overlay2")
	host := t.TempDir()
	id := engine.Run(t, "web", counter, "-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "-v", host+":/vol:ro", "-v", "named:/data")
	r := Docker{Socket: engine.Socket}

	s := find(t, r, "web", id, id[:10])
	if s.Name != "web" || s.Image != testengine.Image || s.Hostname != id[:12] || s.TTY || s.ID != id {
		t.Errorf("name %q, image %q, hostname %q, tty %v", s.Name, s.Image, s.Hostname, s.TTY)
	}
	if got := engine.Command(t, "inspect", "-f", "{{.State.Pid}}", "web"); got != fmt.Sprint(s.Pid) {
		t.Errorf("pid %d, docker says %s", s.Pid, got)
	}
	if got := engine.Command(t, "inspect", "-f", "{{.GraphDriver.Data.UpperDir}} {{.GraphDriver.Data.LowerDir}}", "web"); got != s.Upper+" "+strings.Join(s.Lower, ":") {
		t.Errorf("upper %s, lower %v, docker says %s", s.Upper, s.Lower, got)
	}
	wantLimits(t, s, snapshot.Limits{MemoryBytes: 64 << 20, CPUs: 0.5, Pids: 50})
	if s.Volumes["/vol"] != host || !strings.HasSuffix(s.Volumes["/data"], "/volumes/named/_data") || len(s.Volumes) != 2 {
		t.Errorf("volumes %v", s.Volumes)
	}
	if !s.Files["/etc/hosts"] || !s.Files["/etc/hostname"] || !s.Files["/etc/resolv.conf"] || len(s.Files) != 3 {
		t.Errorf("files %v", s.Files)
	}
	checkDockerNetwork(t, s, engine)
	checkpoint(t, s)

	engine.Command(t, "pause", "web")
	wantKind(t, r, "web", snapshot.KindState)
	engine.Command(t, "unpause", "web")
	wantKind(t, r, "nobody", snapshot.KindNotFound)
	engine.Command(t, "kill", "web")
	wantKind(t, r, "web", snapshot.KindState)
}

func checkDockerNetwork(t *testing.T, s *Source, engine *testengine.Docker) {
	t.Helper()
	n := s.Network
	got := fmt.Sprintf("%s/%d %s %s", n.Address, n.Bits, n.Gateway, n.MAC)
	const format = "{{with .NetworkSettings}}{{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}} {{.MacAddress}}{{end}}"
	if want := engine.Command(t, "inspect", "-f", format, "web"); got != want || n.Mode != "bridge" || n.Bridge != "" {
		t.Errorf("network %q mode %q bridge %q, docker says %q", got, n.Mode, n.Bridge, want)
	}
	// The bridge can be told only from the namespace that it is in.
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", engine.Pid))
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
	engine := testengine.StartDocker(t, "vfs")
	engine.Run(t, "plain", counter, "-t", "--network", "none")
	engine.Run(t, "open", counter, "--pid", "host", "--network", "none")
	r := Docker{Socket: engine.Socket}
	s := find(t, r, "plain")
	if s.Upper != "" || !strings.Contains(s.Lower[0], "/vfs/dir/") || !s.TTY || s.Network.Mode != "none" {
		t.Errorf("upper %q, lower %v, tty %v, network %+v", s.Upper, s.Lower, s.TTY, s.Network)
	}
	wantKind(t, r, "open", snapshot.KindUncloneable)
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

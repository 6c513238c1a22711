package runtime

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPodman(t *testing.T) {
	for _, ociRuntime := range []string{"crun", "runc"} {
		t.Run(ociRuntime, func(t *testing.T) {
			engine := testengine.NewPodman(t)
			p := Podman{Command: []string{engine.Program}}
			host := t.TempDir()
			id := engine.Run(t, ociRuntime, "web", counter, "--network", "none", "-m", "64m", "--pids-limit", "50", "--cpus", "0.5",
				"--hostname", "inner", "-v", host+":/vol:ro")
			s := find(t, p, "web", id, id[:10])
			if s.ID != id || s.Name != "web" || s.Image != testengine.Image || s.Hostname != "inner" || s.TTY {
				t.Errorf("id %q, name %q, image %q, hostname %q, tty %v", s.ID, s.Name, s.Image, s.Hostname, s.TTY)
			}
			if got := engine.Command(t, "inspect", "-f", "{{.GraphDriver.Data.UpperDir}} {{.GraphDriver.Data.LowerDir}}", "web"); got != s.Upper+" "+strings.Join(s.Lower, ":") {
				t.Errorf("upper %s, lower %v, podman says %s", s.Upper, s.Lower, got)
			}
			wantLimits(t, s, snapshot.Limits{MemoryBytes: 64 << 20, CPUs: 0.5, Pids: 50})
			if s.Volumes["/vol"] != host || len(s.Volumes) != 1 {
				t.Errorf("volumes %v", s.Volumes)
			}
			if !s.Files["/etc/hosts"] || !s.Files["/etc/hostname"] || !s.Files["/run/.containerenv"] || s.Files["/dev/shm"] {
				t.Errorf("files %v", s.Files)
			}
			if s.Network.Mode != "none" || s.Network.Address.IsValid() {
				t.Errorf("network %+v", s.Network)
			}
			checkpoint(t, s)
			wantKind(t, p, "nobody", snapshot.KindNotFound)
			checkLowLevel(t, ociRuntime, s)
		})
	}
}

// checkLowLevel finds podman's container by the state of the runtime below.
func checkLowLevel(t *testing.T, ociRuntime string, s *Source) {
	t.Helper()
	low, err := All()[ociRuntime].Find(t.Context(), s.ID[:16])
	if err != nil {
		t.Fatal(err)
	}
	if low.ID != s.ID || low.Pid != s.Pid || low.Upper != s.Upper || low.Cgroup != s.Cgroup || low.Runtime != ociRuntime {
		t.Errorf("%s finds %+v", ociRuntime, low)
	}
}

func TestPodmanHostNetwork(t *testing.T) {
	engine := testengine.NewPodman(t)
	p := Podman{Command: []string{engine.Program}}
	engine.Run(t, "runc", "web", counter, "--network", "host", "-t")
	s := find(t, p, "web")
	if s.Network.Mode != "host" || s.Network.Address.IsValid() || !s.TTY {
		t.Errorf("network %+v, tty %v", s.Network, s.TTY)
	}
	engine.Command(t, "kill", "web")
	engine.Command(t, "wait", "web")
	wantKind(t, p, "web", snapshot.KindState)
	wantKind(t, Podman{Command: []string{filepath.Join(t.TempDir(), "podman")}}, "web", snapshot.KindUnreachable)
}

package runtime

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
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

// podmanStorage returns podman with storage of the test's own, which has the counter's image.
func podmanStorage(t *testing.T) Podman {
	t.Helper()
	need(t, "podman", "conmon")
	dir := scratch(t)
	p := Podman{Command: []string{"podman", "--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
		"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "overlay"}}
	t.Cleanup(func() { _ = sys.Unmount(dir + "/root/overlay") }) // podman may bind it to itself, and leaves it so
	imageArchive(t, busyboxRoot(t, dir+"/rootfs"), dir+"/image.tar")
	p.run(t, "load", "-q", "-i", dir+"/image.tar")
	return p
}

func (p Podman) run(t *testing.T, args ...string) string {
	t.Helper()
	return command(t, p.Command[0], slices.Concat(p.Command[1:], args)...)
}

// start runs a container. crun refuses cgroup v1 where the v2 tree beside it has controllers, so it gets a mount
// namespace without that tree.
func (p Podman) start(t *testing.T, ociRuntime, name string, args ...string) string {
	t.Helper()
	all := slices.Concat(p.Command, []string{"--runtime", ociRuntime, "run", "-d", "--name", name,
		// podman's defaults are above what root may set without CAP_SYS_RESOURCE
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroup-parent", testCgroup(t)},
		args, []string{"localhost/counter", "sh", "-c", counter})
	t.Cleanup(func() { clean(t, p.Command[0], slices.Concat(p.Command[1:], []string{"rm", "-f", "-t", "0", name})...) })
	if b, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); ociRuntime == "crun" && err == nil && len(b) > 1 {
		const script = `umount /sys/fs/cgroup/unified && exec "$@"`
		all = slices.Concat([]string{"unshare", "--mount", "sh", "-c", script, "sh"}, all)
	}
	out := command(t, all[0], all[1:]...)
	return out[strings.LastIndexByte(out, '\n')+1:]
}

func TestPodman(t *testing.T) {
	for _, ociRuntime := range []string{"crun", "runc"} {
		t.Run(ociRuntime, func(t *testing.T) {
			need(t, ociRuntime)
			p := podmanStorage(t)
			host := t.TempDir()
			id := p.start(t, ociRuntime, "web", "--network", "none", "-m", "64m", "--pids-limit", "50", "--cpus", "0.5",
				"--hostname", "inner", "-v", host+":/vol:ro")
			s := find(t, p, "web", id, id[:10])
			if s.ID != id || s.Name != "web" || s.Image != "localhost/counter:latest" || s.Hostname != "inner" || s.TTY {
				t.Errorf("id %q, name %q, image %q, hostname %q, tty %v", s.ID, s.Name, s.Image, s.Hostname, s.TTY)
			}
			if got := p.run(t, "inspect", "-f", "{{.GraphDriver.Data.UpperDir}} {{.GraphDriver.Data.LowerDir}}", "web"); got != s.Upper+" "+strings.Join(s.Lower, ":") {
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
	need(t, "runc")
	p := podmanStorage(t)
	p.start(t, "runc", "web", "--network", "host", "-t")
	s := find(t, p, "web")
	if s.Network.Mode != "host" || s.Network.Address.IsValid() || !s.TTY {
		t.Errorf("network %+v, tty %v", s.Network, s.TTY)
	}
	p.run(t, "kill", "web")
	p.run(t, "wait", "web")
	wantKind(t, p, "web", snapshot.KindState)
	wantKind(t, Podman{Command: []string{filepath.Join(t.TempDir(), "podman")}}, "web", snapshot.KindUnreachable)
}

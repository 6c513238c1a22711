package runtime

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestRunc(t *testing.T) {
	engine := testengine.NewRunc(t)
	dir := engine.Dir
	root := testengine.Rootfs(t, dir+"/plain")
	for _, d := range []string{"overlay", "overlay/upper", "overlay/work", "overlay/rootfs", "one", "plain/data", "plain/vol"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	over := dir + "/overlay/rootfs"
	if err := sys.MountOverlay(over, []string{root}, dir+"/overlay/upper", dir+"/overlay/work"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Unmount(over); err != nil {
			t.Error(err)
		}
	})
	engine.Run(t, "over", engine.Bundle(t, dir+"/overlay", "rootfs", counter, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: "/etc/hosts", Options: []string{"bind"}})
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20))}
	}), testengine.Quiet)
	engine.Run(t, "plain", engine.Bundle(t, dir+"/one", root, counter, func(s *specs.Spec) { kubernetes(t, s, dir) }), testengine.Quiet)
	r := Runc{Roots: []string{filepath.Join(dir, "nothing"), engine.State}}

	s := find(t, r, "over", "o", engine.State+"/over")
	if s.Upper != dir+"/overlay/upper" || !slices.Equal(s.Lower, []string{root}) || s.Rootfs != over {
		t.Errorf("upper %q, lower %q, rootfs %q", s.Upper, s.Lower, s.Rootfs)
	}
	if s.Hostname != "inner" || !s.Files["/etc/hosts"] || len(s.Volumes) != 0 || s.Network.Mode != "none" {
		t.Errorf("hostname %q, files %v, volumes %v, network %+v", s.Hostname, s.Files, s.Volumes, s.Network)
	}
	wantLimits(t, s, snapshot.Limits{MemoryBytes: 64 << 20})
	checkpoint(t, s)

	s = find(t, r, "plain")
	if s.Upper != "" || !slices.Equal(s.Lower, []string{root}) {
		t.Errorf("upper %q, lower %q", s.Upper, s.Lower)
	}
	checkKubernetes(t, s, dir)
	checkRuncRefusals(t, r, engine)
}

// kubernetes makes the spec look like one of containerd's CRI plugin.
func kubernetes(t *testing.T, s *specs.Spec, dir string) {
	t.Helper()
	pod, volume := dir+"/io.containerd.grpc.v1.cri/sandboxes/pod", dir+"/pods/x/volumes/tokens"
	for _, d := range []string{pod + "/secrets", volume} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, pod+"/hostname", "pod")
	for target, source := range map[string]string{"/etc/hostname": pod + "/hostname", "/data": pod + "/secrets", "/vol": volume} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"rbind", "ro"}})
	}
	s.Annotations = map[string]string{"io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.image-name": "example/app:1"}
}

func checkKubernetes(t *testing.T, s *Source, dir string) {
	t.Helper()
	c := &Source{Runtime: "containerd", ID: s.ID, Pid: s.Pid, Spec: s.Spec, Bundle: s.Bundle}
	if err := c.observeCRI(); err != nil {
		t.Fatal(err)
	}
	if c.Name != "app" || c.Image != "example/app:1" {
		t.Errorf("name %q, image %q", c.Name, c.Image)
	}
	if !maps.Equal(c.Files, map[string]bool{"/etc/hostname": true, "/data": true}) ||
		!maps.Equal(c.Volumes, map[string]string{"/vol": dir + "/pods/x/volumes/tokens"}) {
		t.Errorf("files %v, volumes %v", c.Files, c.Volumes)
	}
}

func checkRuncRefusals(t *testing.T, r Runc, engine *testengine.Runc) {
	t.Helper()
	engine.Command(t, "pause", "plain")
	wantKind(t, r, "plain", snapshot.KindState)
	engine.Command(t, "resume", "plain")
	wantKind(t, r, "nobody", snapshot.KindNotFound)
	wantKind(t, r, "/nowhere/at/all", snapshot.KindNotFound)

	engine.Command(t, "create", "--bundle", engine.Dir+"/one", "waiting")
	wantKind(t, r, "waiting", snapshot.KindState)
	engine.Command(t, "delete", "-f", "waiting")

	engine.Command(t, "kill", "plain", "KILL")
	testengine.Await(t, "the container to end", func() error {
		if _, err := r.Find(t.Context(), "plain"); err == nil {
			return fmt.Errorf("it is still found")
		}
		return nil
	})
	wantKind(t, r, "plain", snapshot.KindState)
}

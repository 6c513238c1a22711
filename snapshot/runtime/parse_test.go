package runtime

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestParse(t *testing.T) {
	for in, want := range map[string][2]string{
		"docker:web": {"docker", "web"}, "containerd:k8s.io/abc": {"containerd", "k8s.io/abc"},
		"runc:/run/x/y": {"runc", "/run/x/y"}, "podman:a:b": {"podman", "a:b"}, "crun:z": {"crun", "z"},
	} {
		name, ref, err := Parse(in)
		if err != nil || name != want[0] || ref != want[1] {
			t.Errorf("%s: %q %q %v", in, name, ref, err)
		}
	}
	for _, in := range []string{"", "docker", "docker:", ":web", "lxc:web", "web:docker"} {
		_, _, err := Parse(in)
		if snapshot.KindOf(err) != snapshot.KindInvalid || snapshot.HintOf(err) == "" {
			t.Errorf("%q: %v", in, err)
		}
	}
	if got := slices.Sorted(maps.Keys(All())); !slices.Equal(got, []string{"containerd", "crun", "docker", "podman", "runc"}) {
		t.Error(got)
	}
	for name, r := range All() {
		if r.Name() != name {
			t.Errorf("%s calls itself %s", name, r.Name())
		}
	}
}

func TestTrimToContainer(t *testing.T) {
	for _, c := range [][3]string{
		{"/docker/abc", "/docker/abc", "/docker/abc"},
		{"/docker/abc/nested", "/docker/abc", "/docker/abc"},
		{"/machine.slice/libpod-abc.scope/container", "machine.slice:libpod:abc", "/machine.slice/libpod-abc.scope"},
		{"/system.slice/docker-abc.scope/init.scope", "system.slice:docker:abc", "/system.slice/docker-abc.scope"},
		{"/user.slice", "", "/user.slice"},
		{"/moved/elsewhere", "/docker/abc", "/moved/elsewhere"},
		{"/", "/docker/abc", "/"},
	} {
		if got := trimToContainer(c[0], c[1]); got != c[2] {
			t.Errorf("%s of %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name    string
		cgroups map[string]string
		options string
		files   map[string]string
		want    snapshot.Limits
		frozen  bool
	}{
		{"v2", map[string]string{"": "/a/b"}, "rw", map[string]string{"memory.max": "1048576", "cpu.max": "150000 100000", "pids.max": "7", "cgroup.freeze": "1"},
			snapshot.Limits{MemoryBytes: 1 << 20, CPUs: 1.5, Pids: 7}, true},
		{"v2 without limits", map[string]string{"": "/a/b"}, "rw", map[string]string{"memory.max": "max", "cpu.max": "max 100000", "pids.max": "max", "cgroup.freeze": "0"},
			snapshot.Limits{}, false},
		{"v1", map[string]string{"cpu,cpuacct,memory,pids,freezer": "/a/b", "": "/"}, "rw,cpu,cpuacct,memory,pids,freezer", map[string]string{
			"memory.limit_in_bytes": "1048576", "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "pids.max": "9", "freezer.state": "FROZEN"},
			snapshot.Limits{MemoryBytes: 1 << 20, CPUs: 0.5, Pids: 9}, true},
		{"v1 without limits", map[string]string{"cpu,cpuacct,memory,pids,freezer": "/a/b"}, "rw,cpu,cpuacct,memory,pids,freezer", map[string]string{
			"memory.limit_in_bytes": "9223372036854771712", "cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "pids.max": "max", "freezer.state": "THAWED"},
			snapshot.Limits{}, false},
		{"nothing to read", map[string]string{"memory": "/gone"}, "rw,memory", nil, snapshot.Limits{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.MkdirAll(root+"/a/b", 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range c.files {
				write(t, filepath.Join(root, "a/b", name), text+"\n")
			}
			fstype := "cgroup"
			if c.options == "rw" {
				fstype = "cgroup2"
			}
			g := cgroup{byController(c.cgroups), []proc.Mount{{FSType: fstype, Root: "/", Mountpoint: root, VFSOptions: c.options}}}
			if got := g.limits(); got != c.want || g.frozen() != c.frozen {
				t.Errorf("%+v, frozen %v", got, g.frozen())
			}
		})
	}
}

func TestInside(t *testing.T) {
	dir := t.TempDir()
	s := Source{Pid: os.Getpid()}
	for link, target := range map[string]string{"rel": "../x/./y", "abs": dir + "/rel", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	up := filepath.Dir(dir)
	for in, want := range map[string]string{
		dir + "/plain/file": dir + "/plain/file", dir + "/rel/z": up + "/x/y/z", dir + "/abs": up + "/x/y",
		dir + "/loop/a": dir + "/loop/a", "/": "/",
	} {
		if got := s.inside(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add("Name:\tsh\nPPid:\t7\nNSpid:\t12\t1\n")
	f.Add("NSpid:\nPPid: x\n")
	f.Fuzz(func(t *testing.T, text string) {
		var p process
		if err := p.parseStatus(text); err == nil && p.depth == 0 {
			t.Errorf("%q: %+v", text, p)
		}
	})
}

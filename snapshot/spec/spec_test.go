package spec

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// writeFiles makes a directory with files by name.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustNew(t *testing.T, o Options) *specs.Spec {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatalf("New(%+v): %v", o, err)
	}
	return s
}

func wantKind(t *testing.T, what string, err error, kind snapshot.Kind, text string) {
	t.Helper()
	if err == nil || snapshot.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v, want one of kind %s that says %q", what, err, kind, text)
	}
}

func TestCommand(t *testing.T) {
	for name, c := range map[string]struct {
		image      v1.ImageConfig
		args, want []string
	}{
		"arguments only":           {v1.ImageConfig{}, []string{"sh", "-c", "x"}, []string{"sh", "-c", "x"}},
		"cmd":                      {v1.ImageConfig{Cmd: []string{"a", "b"}}, nil, []string{"a", "b"}},
		"arguments for cmd":        {v1.ImageConfig{Cmd: []string{"a", "b"}}, []string{"c"}, []string{"c"}},
		"entrypoint":               {v1.ImageConfig{Entrypoint: []string{"e"}}, nil, []string{"e"}},
		"entrypoint and cmd":       {v1.ImageConfig{Entrypoint: []string{"e", "f"}, Cmd: []string{"a"}}, nil, []string{"e", "f", "a"}},
		"entrypoint and arguments": {v1.ImageConfig{Entrypoint: []string{"e"}, Cmd: []string{"a"}}, []string{"c"}, []string{"e", "c"}},
	} {
		s := mustNew(t, Options{Image: &c.image, Args: c.args})
		if diff := cmp.Diff(c.want, s.Process.Args); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, bad := range [][]string{nil, {""}, {"a\x00"}} {
		_, err := New(Options{Args: bad})
		wantKind(t, strings.Join(bad, " "), err, snapshot.KindInvalid, "")
	}
}

func TestEnvironment(t *testing.T) {
	root := accounts(t)
	image := &v1.ImageConfig{Env: []string{"PATH=/opt/bin", "A=1", "B=2"}, User: "web"}
	s := mustNew(t, Options{Args: []string{"x"}, Rootfs: root, Image: image, Hostname: "h", Env: []string{"B=3", "A", "EMPTY="}})
	want := []string{"PATH=/opt/bin", "HOSTNAME=h", "B=3", "EMPTY=", "HOME=/srv/web"}
	if diff := cmp.Diff(want, s.Process.Env); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s = mustNew(t, Options{Args: []string{"x"}, Env: []string{"HOME=/h"}})
	if diff := cmp.Diff([]string{defaultPath, "HOME=/h"}, s.Process.Env); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "=x", "A=\x00"} {
		_, err := New(Options{Args: []string{"x"}, Env: []string{bad}})
		wantKind(t, bad, err, snapshot.KindInvalid, "NAME=VALUE")
	}
}

func TestWorkdir(t *testing.T) {
	for _, c := range []struct{ given, image, want string }{
		{"", "", "/"}, {"", "/srv", "/srv"}, {"", "srv/app", "/srv/app"}, {"/a/../b", "/srv", "/b"},
	} {
		s := mustNew(t, Options{Args: []string{"x"}, Workdir: c.given, Image: &v1.ImageConfig{WorkingDir: c.image}})
		if s.Process.Cwd != c.want {
			t.Errorf("%+v: %s", c, s.Process.Cwd)
		}
	}
	_, err := New(Options{Args: []string{"x"}, Workdir: "rel"})
	wantKind(t, "relative", err, snapshot.KindInvalid, "absolute")
}

func TestMounts(t *testing.T) {
	s := mustNew(t, Options{Args: []string{"x"}, Volumes: []string{"/data:/srv/deep/data:ro", "/mine:/etc/hosts", "/shm:/dev/shm", "/srv:/srv"}})
	at := make(map[string]int)
	for i, m := range s.Mounts {
		if _, twice := at[m.Destination]; twice {
			t.Errorf("%s is mounted twice", m.Destination)
		}
		at[m.Destination] = i
	}
	for _, order := range [][2]string{{"/dev", "/dev/shm"}, {"/sys", "/sys/fs/cgroup"}, {"/srv", "/srv/deep/data"}, {"/dev", "/dev/pts"}} {
		if at[order[0]] >= at[order[1]] {
			t.Errorf("%s is mounted after %s", order[0], order[1])
		}
	}
	if m := s.Mounts[at["/srv/deep/data"]]; m.Type != "bind" || m.Source != "/data" || !slices.Contains(m.Options, "ro") {
		t.Errorf("%+v", m)
	}
	for path, source := range map[string]string{"/etc/hosts": "/mine", "/dev/shm": "/shm"} {
		if got := s.Mounts[at[path]].Source; got != source {
			t.Errorf("%s is of %s, want %s", path, got, source)
		}
	}
	_, err := New(Options{Args: []string{"x"}, Volumes: []string{"/a:/b", "/c:/b/"}})
	wantKind(t, "twice", err, snapshot.KindInvalid, "same target")
}

func TestIsolation(t *testing.T) {
	s := mustNew(t, Options{Args: []string{"x"}, CgroupPath: "/c/d", Rootfs: "/r", Hostname: "h"})
	want := []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "network"}}
	if diff := cmp.Diff(want, s.Linux.Namespaces); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.Linux.CgroupsPath != "/c/d" || s.Root.Path != "/r" || s.Root.Readonly || s.Hostname != "h" || s.Process.NoNewPrivileges ||
		len(s.Process.Rlimits) != 0 || s.Linux.Seccomp != nil || len(s.Linux.Sysctl) == 0 {
		t.Errorf("%+v", s)
	}
	if len(s.Process.Capabilities.Effective) != 14 || slices.Contains(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") {
		t.Errorf("capabilities %+v", s.Process.Capabilities)
	}
	s = mustNew(t, Options{Args: []string{"x"}, HostNetwork: true, User: "5"})
	if len(s.Linux.Namespaces) != 4 || s.Linux.Sysctl != nil {
		t.Errorf("host network: %+v, %v", s.Linux.Namespaces, s.Linux.Sysctl)
	}
	if c := s.Process.Capabilities; len(c.Effective)+len(c.Permitted)+len(c.Inheritable)+len(c.Ambient) != 0 || len(c.Bounding) != 14 {
		t.Errorf("capabilities of a user that is not root: %+v", c)
	}
}

func TestLimits(t *testing.T) {
	s := mustNew(t, Options{Args: []string{"x"}, Limits: snapshot.Limits{MemoryBytes: 64 << 20, CPUs: 1.5, Pids: 40}})
	r := s.Linux.Resources
	if *r.Memory.Limit != 64<<20 || *r.CPU.Quota != 150_000 || *r.CPU.Period != 100_000 || *r.Pids.Limit != 40 || r.Devices[0].Allow {
		t.Errorf("%+v", r)
	}
	if r := mustNew(t, Options{Args: []string{"x"}}).Linux.Resources; r.Memory != nil || r.CPU != nil || r.Pids != nil {
		t.Errorf("no limits give %+v", r)
	}
	for _, bad := range []snapshot.Limits{{MemoryBytes: 1}, {MemoryBytes: -1}, {CPUs: -1}, {CPUs: 0.001}, {CPUs: math.NaN()}, {CPUs: math.Inf(1)}, {Pids: -1}} {
		_, err := New(Options{Args: []string{"x"}, Limits: bad})
		wantKind(t, "limits", err, snapshot.KindInvalid, "limit")
	}
}

func TestFromBundle(t *testing.T) {
	good := mustNew(t, Options{Args: []string{"x"}, Rootfs: "rootfs", Volumes: []string{"/a:/b"}, Seccomp: true})
	good.Mounts = append(good.Mounts, specs.Mount{Destination: "/c", Type: "none", Source: "files/c", Options: []string{"rbind"}})
	bundle := func(change func(*specs.Spec)) string {
		data, err := json.Marshal(good)
		if err != nil {
			t.Fatal(err)
		}
		var s specs.Spec
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		change(&s)
		if data, err = json.Marshal(s); err != nil {
			t.Fatal(err)
		}
		return writeFiles(t, map[string]string{"config.json": string(data), "rootfs/etc/x": "", "file": ""})
	}
	dir := bundle(func(*specs.Spec) {})
	s, root, err := FromBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	if root != filepath.Join(dir, "rootfs") || s.Root.Path != root || s.Mounts[len(s.Mounts)-1].Source != filepath.Join(dir, "files/c") {
		t.Errorf("root %s, mounts %+v", root, s.Mounts)
	}
	if i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/proc" }); s.Mounts[i].Source != "proc" {
		t.Errorf("the source of /proc became %s", s.Mounts[i].Source)
	}
	t.Chdir(dir)
	if _, relative, err := FromBundle("."); err != nil || relative != root {
		t.Errorf("a relative bundle has root %s, %v", relative, err)
	}
	for text, change := range map[string]func(*specs.Spec){
		"no ociVersion":             func(s *specs.Spec) { s.Version = "" },
		"not 1.x":                   func(s *specs.Spec) { s.Version = "2.0" },
		"another platform":          func(s *specs.Spec) { s.Windows = &specs.Windows{LayerFolders: []string{"x"}} },
		"no linux section":          func(s *specs.Spec) { s.Linux = nil },
		"no root.path":              func(s *specs.Spec) { s.Root = nil },
		"no process.args":           func(s *specs.Spec) { s.Process.Args = nil },
		"process.cwd":               func(s *specs.Spec) { s.Process.Cwd = "x" },
		"no usable destination":     func(s *specs.Spec) { s.Mounts[0].Destination = "" },
		"without a source":          func(s *specs.Spec) { s.Mounts[len(s.Mounts)-1].Source = "" },
		"no such file or directory": func(s *specs.Spec) { s.Root.Path = "missing" },
		"is not a directory":        func(s *specs.Spec) { s.Root.Path = "file" },
	} {
		_, _, err := FromBundle(bundle(change))
		wantKind(t, text, err, snapshot.KindInvalid, text)
	}
	_, _, err = FromBundle(t.TempDir())
	wantKind(t, "empty", err, snapshot.KindNotFound, "config.json")
	_, _, err = FromBundle(writeFiles(t, map[string]string{"config.json": "{"}))
	wantKind(t, "cut", err, snapshot.KindInvalid, "config.json")
}

func TestSeccompLists(t *testing.T) {
	s := seccomp([]string{"CAP_SYS_CHROOT"})
	unconditional := make(map[string]bool)
	for _, rule := range s.Syscalls {
		for _, name := range rule.Names {
			if rule.Action == specs.ActAllow && len(rule.Args) == 0 {
				if unconditional[name] && name != "sync_file_range2" {
					t.Errorf("%s is listed twice", name)
				}
				unconditional[name] = true
			}
		}
	}
	for _, name := range []string{"io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "mount", "unshare", "setns", "clone",
		"clone3", "bpf", "keyctl", "add_key", "request_key", "kexec_load", "init_module", "perf_event_open", "socket", "personality", "reboot", "memfd_secret"} {
		if unconditional[name] {
			t.Errorf("%s is allowed", name)
		}
	}
	for _, name := range []string{"read", "futex", "rseq", "epoll_wait", "chroot", "membarrier", "prlimit64"} {
		if !unconditional[name] {
			t.Errorf("%s is not allowed", name)
		}
	}
	for _, rule := range seccomp([]string{"CAP_SYS_ADMIN"}).Syscalls {
		if slices.Contains(rule.Names, "clone3") && rule.Action != specs.ActAllow {
			t.Error("CAP_SYS_ADMIN does not open clone3")
		}
	}
}

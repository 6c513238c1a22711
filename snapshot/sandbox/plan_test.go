package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestHierarchyOf(t *testing.T) {
	for options, want := range map[string]string{"rw,memory": "memory", "rw,cpu,cpuacct": "cpu,cpuacct", "rw,xattr,name=systemd": "name=systemd",
		"rw,cpuset,noprefix,clone_children,release_agent=/x": "cpuset"} {
		if got := hierarchyOf(proc.Mount{FSType: "cgroup", VFSOptions: options}); got != want {
			t.Errorf("a hierarchy with options %s is %q, want %q", options, got, want)
		}
	}
	if got := hierarchyOf(proc.Mount{FSType: "cgroup2", VFSOptions: "rw,nsdelegate"}); got != "" {
		t.Errorf("version 2 is %q", got)
	}
}

func TestTmpfsOptions(t *testing.T) {
	if got := tmpfsOptions("rw,seclabel,size=64k,nr_inodes=9,mode=700,uid=1,inode64,context=x"); got != "size=64k,nr_inodes=9,mode=700,uid=1" {
		t.Errorf("options kept: %s", got)
	}
}

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/a", "/", true}, {"/", "/a", false}} {
		if below(c.path, c.dir) != c.want {
			t.Errorf("below(%s, %s) is not %v", c.path, c.dir, c.want)
		}
	}
}

// TestPlanNamesWhatCannotBeCloned plans for a process in a mount namespace with a tmpfs over the only way to another.
func TestPlanNamesWhatCannotBeCloned(t *testing.T) {
	script := `set -e; mount -t tmpfs none "$1"; mkdir "$1/root" "$1/deep"
		mount -t tmpfs -o size=1m none "$1/root"; mkdir "$1/root/hidden" "$1/root/proc"; mount -t ramfs none "$1/root/hidden"
		cd "$1/root"; echo ready; exec sleep 600`
	cmd := exec.Command("sh", "-c", script, "sh", t.TempDir())
	StartPrivate(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line := make([]byte, 5)
	if _, err := out.Read(line); err != nil {
		t.Fatalf("the process did not start: %v", err)
	}
	_, err = PlanMounts(cmd.Process.Pid, PlanOptions{})
	if snapshot.KindOf(err) != snapshot.KindUncloneable || !strings.Contains(err.Error(), "/root/hidden") || snapshot.HintOf(err) == "" {
		t.Errorf("planning for a ramfs: %v", err)
	}
}

func TestForgetMasters(t *testing.T) {
	entry := func(id, shared, master, flags uint32) *mnt.MntEntry {
		return &mnt.MntEntry{Fstype: new(uint32(1)), MntId: &id, RootDev: new(uint32(0)), ParentMntId: new(uint32(0)), Flags: &flags,
			Root: new("/"), Mountpoint: new("/"), Source: new("s"), Options: new("o"), SharedId: &shared, MasterId: &master}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "mountpoints-13.img")
	must(t, writeMounts(path, []*mnt.MntEntry{
		entry(1, 0, 7, syscall.MS_SLAVE|syscall.MS_NOSUID), // of the host
		entry(2, 5, 0, syscall.MS_SHARED),
		entry(3, 0, 5, syscall.MS_SLAVE), // of mount 2
		entry(4, 6, 7, syscall.MS_SLAVE|syscall.MS_SHARED),
	}))
	must(t, ForgetMasters(dir))
	b, err := os.ReadFile(path)
	must(t, err)
	entries, err := parseMounts(b)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%d %d %d %#x", e.GetMntId(), e.GetSharedId(), e.GetMasterId(), e.GetFlags()))
	}
	want := []string{"1 0 0 0x40002", "2 5 0 0x100000", "3 0 5 0x80000", "4 6 0 0x100000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("id, peer group, master and flags:\n%s", diff)
	}
	must(t, os.WriteFile(path, b[:len(b)-3], 0o600))
	if err := ForgetMasters(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("an image cut short: %v", err)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte{0x19, 0x43, 0x56, 0x54, 0x28, 0x39, 0x56, 0x55, 2, 0, 0, 0, 8, 1})
	f.Add([]byte{0x19, 0x43, 0x56, 0x54, 0x28, 0x39, 0x56, 0x55, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if entries, err := parseMounts(b); err == nil && len(b) > 8 && len(entries) == 0 {
			t.Errorf("nothing was read of %x", b)
		}
	})
}

// TestPlanSharedMemoryOfEngines has /dev/shm as Docker and podman make it: a tmpfs that the host has mounted too.
func TestPlanSharedMemoryOfEngines(t *testing.T) {
	cmd := exec.Command("sh", "-c", `mount -t tmpfs -o size=64k none /dev/shm && echo ready && exec sleep 600`)
	StartPrivate(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatalf("the process did not start: %v", err)
	}
	p, err := newPlanner(cmd.Process.Pid, PlanOptions{})
	must(t, err)
	p.outside = p.mounts // the host has it all
	i := slices.IndexFunc(p.mounts, func(m proc.Mount) bool {
		return m.Mountpoint == shm && m.VFSOptions != "" && strings.Contains(m.VFSOptions, "size=64k")
	})
	if i < 0 {
		t.Fatal("no /dev/shm")
	}
	m, err := p.classify(p.mounts[i])
	if err != nil || m.Kind != snapshot.MountTmpfs || m.Key != "m:/dev/shm" || !strings.Contains(m.Options, "size=64k") {
		t.Errorf("planned as %+v, %v", m, err)
	}
	// With the host's own, the container shares it.
	p.pid = os.Getpid()
	for _, own := range p.host {
		if own.Mountpoint != shm || !sameFile(shm, p.inside(shm)) {
			continue
		}
		if m, err = p.classify(own); err != nil || m.Kind == snapshot.MountTmpfs {
			t.Errorf("the host's own is planned as %+v, %v", m, err)
		}
	}
}

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// checkSame compares the mounts and the devices of an original and a clone.
func checkSame(t *testing.T, original []string, pid, clone int) {
	t.Helper()
	if diff := cmp.Diff(original, picture(t, clone)); diff != "" {
		t.Errorf("mounts of original and clone differ:\n%s", diff)
	}
	list := func(pid int) string {
		script := fmt.Sprintf("cd /proc/%d/root/dev && stat -c '%%n %%A %%u %%g %%t:%%T' * shm/note pts/* && readlink link && cat shm/note", pid)
		out, err := exec.Command("sh", "-c", script).CombinedOutput()
		if err != nil {
			t.Errorf("look at /dev of %d: %v", pid, err)
		}
		return string(out)
	}
	if diff := cmp.Diff(list(pid), list(clone)); diff != "" {
		t.Errorf("/dev of original and clone differ:\n%s", diff)
	}
}

// counts says that the clone runs and writes to its own tmpfs.
func counts(t *testing.T, clone int) {
	t.Helper()
	file := fmt.Sprintf("/proc/%d/root/dev/shm/count", clone)
	b, err := os.ReadFile(file)
	must(t, err)
	until(t, "the clone to count on", func() bool {
		now, err := os.ReadFile(file)
		must(t, err)
		return string(now) != string(b) && len(now) > 0
	})
}

func TestMountPlanThroughCRIU(t *testing.T) {
	bin := criu(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	pid, lower, upper := container(t, dir, nil)
	before := picture(t, pid)
	d := dump(t, bin, dir, pid, lower, upper, PlanOptions{})
	o := PrepareOptions{CgroupPath: testCgroup(t, snapshot.Limits{}).Path()}
	clone := restore(t, bin, filepath.Join(dir, "clone"), d, o)
	must(t, OpenCgroup(o.CgroupPath).Place(clone))
	checkSame(t, before, pid, clone)
	counts(t, clone)
	counts(t, pid)

	// A clone is an ordinary container: it can be captured again.
	dir2 := filepath.Join(dir, "again")
	must(t, os.Mkdir(dir2, 0o755))
	d2 := dump(t, bin, dir2, clone, lower, filepath.Join(dir, "clone/upper"), PlanOptions{CgroupPath: o.CgroupPath})
	byPath := cmpopts.SortSlices(func(a, b snapshot.Mount) bool { return a.Path < b.Path })
	if diff := cmp.Diff(d.plan, d2.plan, byPath); diff != "" {
		t.Errorf("plans for the original and the clone differ:\n%s", diff)
	}
	d2.lower = append(d2.lower[:1], d.lower...)
	clone2 := restore(t, bin, filepath.Join(dir2, "clone"), d2, o)
	checkSame(t, before, pid, clone2)
	counts(t, clone2)
}

// TestMountPlanLikeDocker has what Docker's containers have beside: a cgroup namespace, a read-only root, more masked paths, a
// tmpfs inside of another, a directory of a device file system, private binds.
func TestMountPlanLikeDocker(t *testing.T) {
	bin := criu(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(dir+"/resolv.conf", []byte("nameserver 192.0.2.1\n"), 0o644))
	pid, lower, upper := container(t, dir, func(spec map[string]any) {
		linux := spec["linux"].(map[string]any)
		linux["namespaces"] = append(linux["namespaces"].([]any), map[string]any{"type": "cgroup"})
		linux["maskedPaths"] = append(linux["maskedPaths"].([]any), "/proc/interrupts", "/sys/devices/virtual", "/proc/irq")
		linux["readonlyPaths"] = append(linux["readonlyPaths"].([]any), "/etc", "/dev/shm")
		linux["devices"] = []any{map[string]any{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}}
		spec["root"].(map[string]any)["readonly"] = true
		spec["process"].(map[string]any)["args"] = []string{"/bin/sh", "-c", `exec </dev/null >/dev/null 2>&1; echo original >/dev/note
			i=0; while :; do i=$((i+1)); echo $i >/dev/count; busybox sleep 0.05; done`}
		spec["mounts"] = append(spec["mounts"].([]any),
			map[string]any{"source": dir + "/resolv.conf", "destination": "/etc/resolv.conf", "type": "bind", "options": []string{"rbind", "rprivate"}},
			map[string]any{"source": "tmpfs", "destination": "/dev/shm/inner", "type": "tmpfs", "options": []string{"size=1m"}},
			map[string]any{"source": "tmpfs", "destination": "/stack", "type": "tmpfs"},
			map[string]any{"source": "sysfs", "destination": "/stack", "type": "sysfs", "options": []string{"ro"}},
			map[string]any{"source": "/dev/pts", "destination": "/mnt", "type": "bind", "options": []string{"bind", "rprivate"}})
	})
	before := picture(t, pid)
	d := dump(t, bin, dir, pid, lower, upper, PlanOptions{Files: map[string]bool{"/etc/resolv.conf": true}})
	clone := restore(t, bin, filepath.Join(dir, "clone"), d, PrepareOptions{CgroupPath: testCgroup(t, snapshot.Limits{}).Path()})
	after := picture(t, clone)
	for i := range after {
		// A masked path over a read-only one: nobody sees the latter.
		if strings.HasPrefix(after[i], "/etc/resolv.conf ") || strings.HasPrefix(after[i], "/proc/irq tmpfs") {
			after[i] = before[i]
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("mounts of original and clone differ:\n%s", diff)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/resolv.conf", clone))
	if err != nil || string(b) != "nameserver 192.0.2.1\n" {
		t.Errorf("resolv.conf holds %q, %v", b, err)
	}
}

// TestMountPlanSlaves is about hosts whose mounts are shared, as systemd makes them: all that is bound into a container
// is a slave then, its root as well.
func TestMountPlanSlaves(t *testing.T) {
	bin := criu(t)
	must(t, syscall.Mount("", "/", "", syscall.MS_SHARED|syscall.MS_REC, ""))
	t.Cleanup(func() { must(t, syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")) })
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	volume, hosts := filepath.Join(dir, "volume"), filepath.Join(dir, "hosts")
	must(t, os.Mkdir(volume, 0o755))
	must(t, os.WriteFile(volume+"/shared", []byte("volume"), 0o644))
	must(t, os.WriteFile(hosts, []byte("original hosts"), 0o640))
	must(t, os.WriteFile(dir+"/conf", []byte("captured"), 0o600))
	pid, lower, upper := container(t, dir, func(spec map[string]any) {
		bind := func(source, target string, options ...string) map[string]any {
			return map[string]any{"source": source, "destination": target, "type": "bind", "options": append(options, "bind")}
		}
		spec["mounts"] = append(spec["mounts"].([]any),
			bind(volume, "/data"), bind(volume, "/data-ro", "ro", "nosuid"), bind(hosts, "/etc/hosts"), bind(dir+"/conf", "/etc/conf"),
			bind("/dev/full", "/dev/full2"), bind("/dev/null", "/etc/nothing"),
			map[string]any{"source": "tmpfs", "destination": "/tmp/scratch", "type": "tmpfs", "options": []string{"size=1m", "noexec"}},
			map[string]any{"source": "tmpfs", "destination": "/data/inner", "type": "tmpfs", "options": []string{"size=1m", "mode=711"}})
	})
	before := picture(t, pid)
	if !strings.Contains(strings.Join(before, "\n"), "slave") {
		t.Error("the container has no slave mount, so this tests nothing")
	}
	d := dump(t, bin, dir, pid, lower, upper, PlanOptions{Files: map[string]bool{"/etc/hosts": true, "/etc/conf": true},
		Volumes: map[string]string{"/data": volume}})
	must(t, ForgetMasters(d.images))
	for i := range before {
		before[i] = strings.ReplaceAll(before[i], "private,slave", "private")
	}
	fresh := filepath.Join(dir, "fresh")
	must(t, os.WriteFile(fresh, []byte("fresh hosts"), 0o640))
	o := PrepareOptions{CgroupPath: testCgroup(t, snapshot.Limits{}).Path(), Files: map[string]string{"/etc/hosts": fresh}}
	must(t, sys.Slave())
	for _, sharing := range []uintptr{syscall.MS_PRIVATE, syscall.MS_SHARED} {
		must(t, syscall.Mount("", "/", "", sharing|syscall.MS_REC, ""))
		clone := restore(t, bin, filepath.Join(dir, fmt.Sprint("clone", sharing)), d, o)
		counts(t, clone)
		after := picture(t, clone)
		for i := range after { // copies lie on a tmpfs
			for _, file := range []string{"/etc/hosts", "/etc/conf"} {
				if strings.HasPrefix(after[i], file+" ") {
					after[i] = before[i]
				}
			}
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("mounts of original and clone differ:\n%s", diff)
		}
		for path, want := range map[string]string{"/etc/hosts": "fresh hosts", "/etc/conf": "captured", "/data/shared": "volume", "/data-ro/shared": "volume"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", clone, path))
			if err != nil || string(b) != want {
				t.Errorf("%s holds %q (%v), want %q", path, b, err, want)
			}
		}
	}
	d.plan[len(d.plan)-1].Kind, d.plan[len(d.plan)-1].Key, d.plan[len(d.plan)-1].Source = snapshot.MountBind, "m:x", dir+"/none"
	_, err := PrepareMounts(dir+"/fails", d.plan, d.contents, o)
	if snapshot.KindOf(err) != snapshot.KindIncompatible || !strings.Contains(err.Error(), dir+"/none") {
		t.Errorf("with a volume that is not there PrepareMounts says: %v", err)
	}
	if _, err := os.Lstat(dir + "/fails"); err == nil {
		t.Error("a failed PrepareMounts leaves its directory")
	}
}

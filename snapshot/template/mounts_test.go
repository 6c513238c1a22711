package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mountPicture is what must be equal of the mounts of an original and of a clone.
func mountPicture(t *testing.T, pid int, files map[string]bool) []string {
	t.Helper()
	mounts, err := proc.Mounts(pid)
	mustDo(t, err)
	var lines []string
	for _, m := range mounts {
		fstype, root, super := m.FSType, m.Root, m.VFSOptions
		if !slices.Contains([]string{"proc", "sysfs", "devpts", "mqueue", "tmpfs"}, fstype) {
			root = "" // host paths
		}
		if fstype == "overlay" {
			super = "" // host paths
		}
		if files[m.Mountpoint] { // copies lie on a tmpfs
			fstype, root, super = "file", "", ""
		}
		on := ""
		for _, o := range mounts {
			if o.ID == m.Parent {
				on = o.Mountpoint
			}
		}
		lines = append(lines, fmt.Sprintf("%s on %s %s root=%s %s super=%s", m.Mountpoint, on, fstype, root, m.Options, super))
	}
	slices.Sort(lines)
	return lines
}

// contents copies what each clone gets a copy of.
func contents(t *testing.T, pid int, plan []snapshot.Mount) map[string]string {
	t.Helper()
	dir, found := t.TempDir(), make(map[string]string)
	for i, m := range plan {
		source, ok := sandbox.CaptureMount(pid, m)
		if !ok || found[m.Key] != "" {
			continue
		}
		found[m.Key] = filepath.Join(dir, strconv.Itoa(i))
		out, err := exec.Command("cp", "-ax", source, found[m.Key]).CombinedOutput() // -x leaves out what other mounts cover
		if err != nil {
			t.Fatalf("copy %s: %v: %s", source, err, out)
		}
	}
	return found
}

const firstDetached = 500

// cloneMounts makes the mounts of a plan for a process of the test's and returns it. nested says whether they are put together
// before the process has them.
func cloneMounts(t *testing.T, nested bool, lower []string, contents map[string]string, plan []snapshot.Mount, p sandbox.Parts) (pid int) {
	t.Helper()
	c := &compiler{config: &snapshot.Config{Mounts: plan}, data: recipe.NewData(mountsBase), high: firstDetached, host: host{nested: nested}}
	c.layMounts()
	b, err := sandbox.NewBlueprint(lower, plan, contents, c.ahead)
	mustDo(t, err)
	before := ownState(t)
	d, err := b.Make(p)
	mustDo(t, err)
	if diff := cmp.Diff(before.mounts, ownState(t).mounts); diff != "" {
		t.Errorf("the maker's own mounts changed:\n%s", diff)
	}
	handed := sandbox.Detached(plan, c.ahead)
	if len(d.Files()) != len(handed) || nested != (len(c.ahead) > 0) {
		t.Fatalf("%d files for %d detached mounts; %d were attached before, nested %v", len(d.Files()), len(handed), len(c.ahead), nested)
	}
	mustDo(t, b.Rewrite(d, p.Files))
	r := c.data.New()
	c.mounts(r, firstDetached)
	if len(c.reasons) > 0 {
		t.Fatalf("refused: %q", c.reasons)
	}
	pid = runMounts(t, r, firstDetached, d.Files())
	mustDo(t, d.Close())
	t.Logf("%d mounts, %d of them ahead, %d detached", len(plan), len(c.ahead), len(handed))
	return pid
}

type state struct {
	mounts []proc.Mount
	fds    int
}

func ownState(t *testing.T) state {
	t.Helper()
	mounts, err := proc.Mounts(os.Getpid())
	mustDo(t, err)
	fds, err := os.ReadDir("/proc/self/fd")
	mustDo(t, err)
	return state{mounts, len(fds)}
}

// startRunc starts a container of runc's default bundle, as edit changes it, and returns its init and its lower directories.
func startRunc(t *testing.T, edit func(dir string, spec map[string]any)) (pid int, lower []string) {
	t.Helper()
	dir := t.TempDir()
	mustDo(t, os.Chmod(dir, 0o755))
	rootfs, upper := filepath.Join(dir, "rootfs"), filepath.Join(dir, "upper")
	lower = []string{upper, testrootfs.Busybox(t)}
	mustDo(t, sandbox.MountOverlay(rootfs, lower[1:], upper, filepath.Join(dir, "work")))
	t.Cleanup(func() { mustDo(t, sandbox.Unmount(rootfs)) })
	runc := func(args ...string) {
		cmd := exec.Command("runc", append([]string{"--root", filepath.Join(dir, "runc")}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.Output(); err != nil {
			exit, _ := errors.AsType[*exec.ExitError](err)
			t.Fatalf("runc %s: %v: %s %s", args[0], err, out, exit.Stderr)
		}
	}
	runc("spec")
	var spec map[string]any
	b, err := os.ReadFile(dir + "/config.json")
	mustDo(t, err)
	mustDo(t, json.Unmarshal(b, &spec))
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"sleep", "600"}
	spec["root"] = map[string]any{"path": rootfs, "readonly": true}
	if edit != nil {
		edit(dir, spec)
	}
	b, err = json.Marshal(spec)
	mustDo(t, err)
	mustDo(t, os.WriteFile(dir+"/config.json", b, 0o600))
	id := fmt.Sprintf("template-mounts-%d", os.Getpid())
	cmd := exec.Command("runc", "--root", filepath.Join(dir, "runc"), "run", "-d", "--pid-file", dir+"/pid", id)
	cmd.Dir = dir
	mustDo(t, cmd.Run())
	t.Cleanup(func() { runc("delete", "-f", id) })
	b, err = os.ReadFile(dir + "/pid")
	mustDo(t, err)
	pid, err = strconv.Atoi(string(b))
	mustDo(t, err)
	return pid, lower
}

// testCloneOf clones the mounts of a container in both ways and compares.
func testCloneOf(t *testing.T, pid int, lower []string, o sandbox.PlanOptions) (clones [2]int) {
	t.Helper()
	plan, err := sandbox.PlanMounts(pid, o)
	mustDo(t, err)
	b, err := json.Marshal(plan) // the plan goes through the store
	mustDo(t, err)
	plan = nil
	mustDo(t, json.Unmarshal(b, &plan))
	captured := contents(t, pid, plan)
	cgroup, err := sandbox.NewCgroup(fmt.Sprintf("/template-test-%d/mounts", os.Getpid()), snapshot.Limits{})
	mustDo(t, err)
	t.Cleanup(func() { mustDo(t, cgroup.Remove()) })
	want := mountPicture(t, pid, o.Files)
	dir := t.TempDir()
	netns, err := sandbox.NewNetns()
	mustDo(t, err)
	t.Cleanup(func() { mustDo(t, netns.Close()) })
	fds := ownState(t).fds
	for i := range clones {
		p := sandbox.Parts{Upper: filepath.Join(dir, fmt.Sprint("upper", i)), Work: filepath.Join(dir, fmt.Sprint("work", i)), CgroupPath: cgroup.Path(), Netns: netns,
			Files: map[string][]byte{"/etc/hostname": fmt.Appendf(nil, "clone%d\n", i)}}
		nested := i == 1
		if err := sys.TryNestedMounts(); nested && err != nil {
			t.Logf("this kernel puts no mounts together: %v", err)
			nested = false
		}
		clones[i] = cloneMounts(t, nested, lower, captured, plan, p)
		if diff := cmp.Diff(want, mountPicture(t, clones[i], o.Files)); diff != "" {
			t.Errorf("mounts of original and clone differ:\n%s", diff)
		}
		mounts, err := proc.Mounts(clones[i])
		mustDo(t, err)
		for _, m := range mounts {
			if m.Optional != "" {
				t.Errorf("mount %s is not private: %s", m.Mountpoint, m.Optional)
			}
		}
	}
	if got := ownState(t).fds; got > fds+2*2 { // a pipe and a pidfd for each clone, which lives on
		t.Errorf("%d descriptors are open, %d were", got, fds)
	}
	return clones
}

// inRoot returns where a path of a process's container is for others.
func inRoot(pid int, path string) string { return fmt.Sprintf("/proc/%d/root%s", pid, path) }

// TestMountsOfDefaultBundle compares with runc's default bundle.
func TestMountsOfDefaultBundle(t *testing.T) {
	pid, lower := startRunc(t, nil)
	clones := testCloneOf(t, pid, lower, sandbox.PlanOptions{})
	list := func(pid int) string {
		out, err := exec.Command("sh", "-c", fmt.Sprintf("cd /proc/%d/root/dev && stat -c '%%n %%A %%u %%g %%t:%%T %%Y %%N' . *", pid)).CombinedOutput()
		if err != nil {
			t.Errorf("look at /dev of %d: %v", pid, err)
		}
		return withoutTimesOfMounts(string(out))
	}
	if diff := cmp.Diff(list(pid), list(clones[0])); diff != "" {
		t.Errorf("/dev of original and clone differ:\n%s", diff)
	}
	for _, path := range []string{"/dev/shm/mine", "/dev/mine"} {
		mustDo(t, os.WriteFile(inRoot(clones[0], path), []byte("x"), 0o600))
		for _, other := range []int{pid, clones[1]} {
			if _, err := os.Lstat(inRoot(other, path)); err == nil {
				t.Errorf("%s of a clone shows in process %d", path, other)
			}
		}
	}
	for _, path := range []string{"/mine", "/proc/sys/kernel/hostname", "/sys/firmware/mine", "/proc/acpi/mine"} {
		if f, err := os.OpenFile(inRoot(clones[0], path), os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
			f.Close()
			t.Errorf("%s can be written", path)
		}
	}
	if self, err := os.Readlink(inRoot(clones[0], "/proc/1/root")); err != nil || self != "/" {
		t.Errorf("the clone's process 1 in its own /proc: %q, %v", self, err)
	}
}

// withoutTimesOfMounts drops the times of what is another file system's top.
func withoutTimesOfMounts(list string) string {
	var lines []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) > 5 && slices.Contains([]string{"pts", "mqueue"}, f[0]) {
			f[5] = ""
		}
		lines = append(lines, strings.Join(f, " "))
	}
	return strings.Join(lines, "\n")
}

// TestMountsOfUnusualBundle has mounts on, under and over each other, all kinds, and flags of all sorts.
func TestMountsOfUnusualBundle(t *testing.T) {
	var volume string
	pid, lower := startRunc(t, func(dir string, spec map[string]any) {
		volume = filepath.Join(dir, "volume")
		mustDo(t, os.Mkdir(volume, 0o755))
		mustDo(t, os.WriteFile(volume+"/shared", []byte("volume"), 0o644))
		mustDo(t, os.WriteFile(dir+"/hostname", []byte("original\n"), 0o644))
		mustDo(t, os.WriteFile(dir+"/conf", []byte("captured"), 0o640))
		mustDo(t, os.Chown(dir+"/conf", 12, 34))
		linux := spec["linux"].(map[string]any)
		linux["maskedPaths"] = append(linux["maskedPaths"].([]any), "/proc/interrupts", "/sys/devices/virtual", "/proc/irq")
		linux["readonlyPaths"] = append(linux["readonlyPaths"].([]any), "/etc")
		linux["devices"] = []any{map[string]any{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}}
		spec["root"].(map[string]any)["readonly"] = false
		mount := func(source, target, fstype string, options ...string) map[string]any {
			return map[string]any{"source": source, "destination": target, "type": fstype, "options": options}
		}
		spec["mounts"] = append(spec["mounts"].([]any),
			mount(dir+"/hostname", "/etc/hostname", "bind", "rbind", "rprivate"), mount(dir+"/conf", "/etc/conf", "bind", "bind", "ro", "noexec"),
			mount(volume, "/data", "bind", "bind"), mount(volume, "/data-ro", "bind", "bind", "ro", "nosuid"),
			mount("tmpfs", "/data/inner", "tmpfs", "size=1m", "mode=711"),
			mount("/dev/full", "/dev/full2", "bind", "bind"),
			mount("tmpfs", "/stack", "tmpfs"), mount("sysfs", "/stack", "sysfs", "ro"),
			mount("tmpfs", "/scratch", "tmpfs", "size=1m", "noexec", "noatime", "ro"),
			mount("proc", "/proc2", "proc", "nosuid", "noexec", "hidepid=2", "gid=7"))
	})
	clones := testCloneOf(t, pid, lower, sandbox.PlanOptions{Files: map[string]bool{"/etc/hostname": true, "/etc/conf": true},
		Volumes: map[string]string{"/data": volume, "/data-ro": volume}})
	for i, clone := range clones {
		for path, want := range map[string]string{"/etc/hostname": fmt.Sprintf("clone%d\n", i), "/etc/conf": "captured", "/data/shared": "volume", "/data-ro/shared": "volume"} {
			if got, err := os.ReadFile(inRoot(clone, path)); err != nil || string(got) != want {
				t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
			}
		}
		var st syscall.Stat_t
		mustDo(t, syscall.Stat(inRoot(clone, "/etc/conf"), &st))
		if st.Mode&0o777 != 0o640 || st.Uid != 12 || st.Gid != 34 {
			t.Errorf("/etc/conf has mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
		}
	}
	mustDo(t, os.WriteFile(inRoot(clones[0], "/data/new"), nil, 0o600))
	if _, err := os.Lstat(volume + "/new"); err != nil {
		t.Errorf("the volume is not shared: %v", err)
	}
}

// TestMountsOfOwnContainer compares with a container of `snapd-ctr run`.
func TestMountsOfOwnContainer(t *testing.T) {
	in := testhost.New(t)
	lower := testrootfs.Busybox(t)
	run := func(args ...string) string {
		out, err := in.Command(t.Context(), args...).Output()
		if err != nil {
			exit, _ := errors.AsType[*exec.ExitError](err)
			t.Fatalf("%s: %v: %s", args, err, exit.Stderr)
		}
		return strings.TrimSpace(string(out))
	}
	run("run", "--name", "web", "--rootfs", lower, "--", "sleep", "600")
	t.Cleanup(func() {
		cmd := exec.Command(in.CLI, "rm", "-f", "web")
		cmd.Env = in.Env()
		mustDo(t, cmd.Run())
	})
	var c []struct{ Pid int }
	answer := run("inspect", "web")
	if err := json.Unmarshal([]byte(answer), &c); err != nil || len(c) != 1 || c[0].Pid == 0 {
		t.Fatalf("inspect: %v: %s", err, answer)
	}
	files := map[string]bool{"/etc/hostname": true, "/etc/hosts": true, "/etc/resolv.conf": true}
	began := time.Now()
	clones := testCloneOf(t, c[0].Pid, []string{lower}, sandbox.PlanOptions{Files: files})
	t.Logf("two clones in %v", time.Since(began))
	if got, err := os.ReadFile(inRoot(clones[1], "/etc/hostname")); err != nil || string(got) != "clone1\n" {
		t.Errorf("/etc/hostname holds %q, %v", got, err)
	}
}

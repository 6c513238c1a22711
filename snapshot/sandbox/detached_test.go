package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// usual is the plan of an ordinary container, its lower directories, and what is in its mounts.
func usual(t testing.TB) (lower []string, plan []snapshot.Mount, contents map[string]string) {
	t.Helper()
	dir := t.TempDir()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lower = []string{dir + "/top", dir + "/base"}
	do(os.MkdirAll(lower[0]+"/etc", 0o755))
	do(os.WriteFile(lower[0]+"/etc/hostname", nil, 0o644))
	for _, d := range []string{"proc", "sys", "dev", "etc"} {
		do(os.MkdirAll(lower[1]+"/"+d, 0o755))
	}
	do(os.Chmod(lower[0], 0o751))
	dev := dir + "/dev"
	do(os.MkdirAll(dev+"/pts", 0o755))
	do(os.Mkdir(dev+"/shm", 0o755))
	for i, name := range []string{"null", "zero", "full", "tty", "random", "urandom"} {
		do(syscall.Mknod(dev+"/"+name, syscall.S_IFCHR|0o666, 1<<8|3+i))
		do(os.Chmod(dev+"/"+name, 0o666))
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "ptmx": "pts/ptmx"} {
		do(os.Symlink(target, dev+"/"+name))
	}
	flags := []string{"rw", "nosuid", "relatime"}
	plan = []snapshot.Mount{
		{Path: "/", Kind: snapshot.MountRoot, FSType: "overlay", Flags: []string{"rw", "relatime"}},
		{Path: "/proc", Kind: snapshot.MountNative, FSType: "proc", Options: "rw", Flags: flags, On: "/"},
		{Path: "/dev", Kind: snapshot.MountTmpfs, FSType: "tmpfs", Key: "m:/dev", Options: "size=65536k,mode=755", Flags: []string{"rw", "nosuid"}, On: "/"},
		{Path: "/dev/shm", Kind: snapshot.MountTmpfs, FSType: "tmpfs", Key: "m:/dev/shm", Options: "size=65536k,mode=1777", Flags: flags, On: "/dev"},
		{Path: "/dev/console", Kind: snapshot.MountNull, FSType: "devtmpfs", Key: "m:/dev/console", Flags: flags, On: "/dev"},
		{Path: "/proc/acpi", Kind: snapshot.MountTmpfs, FSType: "tmpfs", Key: "m:/proc/acpi", Options: "ro", Flags: []string{"ro"}, On: "/proc"},
		{Path: "/sys/firmware", Kind: snapshot.MountTmpfs, FSType: "tmpfs", Key: "m:/sys/firmware", Options: "ro", Flags: []string{"ro"}, On: "/sys"},
		{Path: "/etc/hostname", Kind: snapshot.MountFile, FSType: "ext4", Key: "m:/etc/hostname", Flags: flags, On: "/"},
		{Path: "/etc/hosts", Kind: snapshot.MountFile, FSType: "ext4", Key: "m:/etc/hosts", Flags: flags, On: "/"},
		{Path: "/etc/resolv.conf", Kind: snapshot.MountFile, FSType: "ext4", Key: "m:/etc/resolv.conf", Flags: flags, On: "/"},
	}
	return lower, plan, map[string]string{"m:/dev": dev}
}

// at opens what is in a detached mount.
func at(m *os.File, name string) string { return sys.FDPath(m, name) }

func TestDetachedMounts(t *testing.T) {
	lower, plan, contents := usual(t)
	captured := t.TempDir()
	must(t, os.WriteFile(captured+"/hosts", []byte("captured\n"), 0o640))
	must(t, os.Chown(captured+"/hosts", 3, 4))
	contents["m:/etc/hosts"] = captured
	must(t, os.WriteFile(captured+"/fresh", []byte("clone\n"), 0o600))
	before, err := proc.Mounts(os.Getpid())
	must(t, err)
	dir := t.TempDir()
	d, err := makeDetached(lower, dir+"/upper", dir+"/work", plan, contents, PrepareOptions{Files: map[string]string{"/etc/hostname": captured + "/fresh"}})
	must(t, err)
	after, err := proc.Mounts(os.Getpid())
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("mounts were attached:\n%s", diff)
	}
	var kinds []snapshot.MountKind
	for _, m := range Detached(plan, nil) {
		kinds = append(kinds, m.Kind)
	}
	if diff := cmp.Diff([]snapshot.MountKind{"root", "tmpfs", "tmpfs", "null", "tmpfs", "tmpfs", "file"}, kinds); diff != "" {
		t.Fatalf("kinds of detached mounts:\n%s", diff)
	}
	files := d.Files()
	for _, name := range []string{"proc", "sys/firmware", "dev", "etc/hosts", "etc/resolv.conf"} {
		if _, err := os.Lstat(at(files[0], name)); err != nil {
			t.Errorf("mount point on the root: %v", err)
		}
	}
	if st, err := os.Stat(at(files[0], "")); err != nil || st.Mode().Perm() != 0o751 {
		t.Errorf("the root is %v, %v", st.Mode(), err)
	}
	must(t, os.WriteFile(at(files[0], "written"), nil, 0o600))
	if _, err := os.Lstat(dir + "/upper/written"); err != nil {
		t.Errorf("what is written on the root: %v", err)
	}
	for _, name := range []string{"null", "ptmx", "shm", "pts", "console"} {
		want, err := os.Lstat(filepath.Join(contents["m:/dev"], name))
		got, err2 := os.Lstat(at(files[1], name))
		if err2 != nil || err == nil && (want.Mode() != got.Mode() || !want.ModTime().Equal(got.ModTime())) {
			t.Errorf("/dev/%s is %v, %v; captured %v, %v", name, got, err2, want, err)
		}
	}
	if err := os.WriteFile(at(files[4], "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a read-only tmpfs: %v", err)
	}
	names := FileNames(plan)
	for key, want := range map[string]string{"m:/etc/hostname": "clone\n", "m:/etc/hosts": "captured\n", "m:/etc/resolv.conf": ""} {
		if got, err := os.ReadFile(at(files[6], names[key])); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", key, got, err, want)
		}
	}
	var st syscall.Stat_t
	must(t, syscall.Stat(at(files[6], names["m:/etc/hosts"]), &st))
	if st.Uid != 3 || st.Gid != 4 || st.Mode&0o7777 != 0o640 {
		t.Errorf("/etc/hosts has owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	must(t, d.Close())
}

// TestDetachedReadonlyWithContent has a tmpfs that may not be written any more once it is filled.
func TestDetachedReadonlyWithContent(t *testing.T) {
	lower, plan, contents := usual(t)
	plan[2].Options += ",ro"
	plan[3].Flags = []string{"ro", "nosuid"}
	plan[0].Flags = []string{"ro"}
	dir := t.TempDir()
	d, err := makeDetached(lower, dir+"/upper", dir+"/work", plan, contents, PrepareOptions{})
	must(t, err)
	defer d.Close()
	for i := range 3 {
		if err := os.WriteFile(at(d.Files()[i], "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Errorf("mount %d can be written: %v", i, err)
		}
	}
	if _, err := os.Lstat(at(d.Files()[1], "null")); err != nil {
		t.Error(err)
	}
}

// TestDetachedLeavesNothing counts descriptors after failures, and after many were made.
func TestDetachedLeavesNothing(t *testing.T) {
	lower, plan, contents := usual(t)
	dir := t.TempDir()
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(fds)
	}
	before := open()
	volume := snapshot.Mount{Path: "/data", Kind: snapshot.MountBind, FSType: "ext4", Key: "m:/data", Source: dir + "/none", On: "/"}
	_, err := makeDetached(lower, dir+"/u", dir+"/w", append(plan[:len(plan):len(plan)], volume), contents, PrepareOptions{})
	if snapshot.KindOf(err) != snapshot.KindIncompatible || !strings.Contains(err.Error(), dir+"/none") {
		t.Errorf("without its volume: %v", err)
	}
	cgroup := snapshot.Mount{Path: "/sys/fs/cgroup", Kind: snapshot.MountCgroup, FSType: "cgroup2", Key: "m:/sys/fs/cgroup", On: "/sys"}
	if _, err := makeDetached(lower, dir+"/u2", dir+"/w2", append(plan[:len(plan):len(plan)], cgroup), contents, PrepareOptions{}); err == nil {
		t.Error("a clone without a cgroup shows its cgroup")
	}
	if _, err := makeDetached([]string{dir + "/no"}, dir+"/u3", dir+"/w3", plan, contents, PrepareOptions{}); err == nil {
		t.Error("a root of nothing was made")
	}
	b, err := NewBlueprint(lower, plan, contents, nil)
	must(t, err)
	for i := range 20 {
		d, err := b.Make(Parts{Upper: fmt.Sprint(dir, "/upper", i), Work: fmt.Sprint(dir, "/work", i)})
		must(t, err)
		must(t, d.Close())
	}
	if got := open(); got != before {
		t.Errorf("%d descriptors are open, %d were", got, before)
	}
}

// TestTreeIsACopy copies a tree with all that may be in one.
func TestTreeIsACopy(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(src+"/dir/deep", 0o711))
	must(t, os.WriteFile(src+"/dir/file", []byte("text"), 0o644))
	must(t, os.Chown(src+"/dir/file", 5, 6))
	must(t, os.Chmod(src+"/dir/file", 0o4755))
	must(t, os.Link(src+"/dir/file", src+"/dir/zlink"))
	must(t, os.WriteFile(src+"/large", make([]byte, inMemory+1), 0o600))
	must(t, os.Symlink("nowhere", src+"/symlink"))
	must(t, syscall.Mkfifo(src+"/fifo", 0o622))
	must(t, syscall.Mknod(src+"/device", syscall.S_IFCHR|0o666, 1<<8|5))
	must(t, sys.SetXattr(src+"/dir/file", "trusted.test", []byte("value")))
	must(t, os.Chmod(src, 0o1777))
	tr, err := readTree(src)
	must(t, err)
	f, err := os.Open(dst)
	must(t, err)
	defer f.Close()
	must(t, tr.make(sys.DirOf(f)))
	again, err := readTree(dst)
	must(t, err)
	for _, both := range []tree{tr, again} { // access times move, and large files are where they are
		for i := range both {
			both[i].atime = syscall.Timespec{}
			if both[i].source != "" {
				both[i].source = filepath.Base(both[i].source)
			}
		}
	}
	if diff := cmp.Diff(tr, again, cmp.AllowUnexported(node{})); diff != "" {
		t.Errorf("a tree and its copy differ:\n%s", diff)
	}
}

// BenchmarkBlueprintMake measures Make alone; what it made is given up outside of the time, in hundreds.
func BenchmarkBlueprintMake(b *testing.B) {
	lower, plan, contents := usual(b)
	blueprint, err := NewBlueprint(lower, plan, contents, nil)
	check(b, err)
	dir := b.TempDir()
	var held []*DetachedMounts
	release := func() {
		for _, d := range held {
			check(b, d.Close())
		}
		held = held[:0]
	}
	for i := 0; b.Loop(); i++ {
		d, err := blueprint.Make(Parts{Upper: fmt.Sprint(dir, "/u", i), Work: fmt.Sprint(dir, "/w", i)})
		check(b, err)
		if held = append(held, d); len(held) == 100 {
			b.StopTimer()
			release()
			b.StartTimer()
		}
	}
	release()
}

func BenchmarkNewBlueprint(b *testing.B) {
	lower, plan, contents := usual(b)
	for b.Loop() {
		_, err := NewBlueprint(lower, plan, contents, nil)
		check(b, err)
	}
}

// makeDetached makes the mounts of one clone.
func makeDetached(lower []string, upper, work string, mounts []snapshot.Mount, contents map[string]string, o PrepareOptions) (*DetachedMounts, error) {
	b, err := NewBlueprint(lower, mounts, contents, nil)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for path, source := range o.Files {
		if !slices.ContainsFunc(mounts, func(m snapshot.Mount) bool { return m.Kind == snapshot.MountFile && m.Path == path }) {
			continue
		}
		if files[path], err = os.ReadFile(filepath.Clean(source)); err != nil {
			return nil, err
		}
	}
	return b.Make(Parts{Upper: upper, Work: work, Files: files, CgroupPath: o.CgroupPath})
}

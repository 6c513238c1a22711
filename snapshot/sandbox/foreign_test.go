package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// entry is a mount as CRIU records it, with all fields that it insists on.
func entry(path, root, key, options string, fstype uint32) *mnt.MntEntry {
	return &mnt.MntEntry{Fstype: new(fstype), MntId: new(uint32(1)), RootDev: new(uint32(1)), ParentMntId: new(uint32(1)), Flags: new(uint32(0)),
		Root: new(root), Mountpoint: new(path), Source: new("none"), Options: new(options), ExtKey: new(key)}
}

func TestPlanForeign(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "mountpoints-13.img")
	must(t, writeMounts(image, []*mnt.MntEntry{
		entry("/proc/keys", "/null", "/dev/null", "", criuTmpfs),
		entry("/sys/fs/cgroup/systemd", "/x", "/sys/fs/cgroup/systemd", "name=systemd", criuCgroup),
		entry("/vol", "/srv", "/vol", "", 0),
		entry("/etc/hosts", "/userdata/hosts", "/etc/hosts", "", criuTmpfs),
		entry("/dev/shm", "/", "/dev/shm", "size=64000k", criuTmpfs),
		entry("/dev", "/", "", "mode=755", criuTmpfs),
		entry("/", "/", "", "lowerdir=x", 17),
	}))
	plan, err := PlanForeign(dir, map[string]string{"/vol": "/srv"})
	must(t, err)
	var got []string
	for _, m := range plan {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", m.Path, m.Kind, m.Key, m.Source, m.Options))
	}
	want := []string{
		"/ root   ",
		"/dev native   ",
		"/dev/shm tmpfs /dev/shm  size=64000k,mode=1777",
		"/etc/hosts file /etc/hosts  ",
		"/vol bind /vol /srv ",
		"/sys/fs/cgroup/systemd cgroup /sys/fs/cgroup/systemd name=systemd ",
		"/proc/keys null /dev/null  ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("planned\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	must(t, writeMounts(image, []*mnt.MntEntry{entry("/dev", "/", "", "", criuTmpfs)}))
	if _, err := PlanForeign(dir, nil); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("without a root: %v", err)
	}
	must(t, os.WriteFile(image, []byte("oops"), 0o600))
	if _, err := PlanForeign(dir, nil); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("a damaged image: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "mountpoints-14.img"), nil, 0o600))
	if _, err := PlanForeign(dir, nil); snapshot.KindOf(err) != snapshot.KindUncloneable {
		t.Errorf("two mount namespaces: %v", err)
	}
}

// TestPrepareRootMakesMountPoints has mount points made in a root file system that lacks them, and nowhere else.
func TestPrepareRootMakesMountPoints(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(root, "away")))
	must(t, os.WriteFile(filepath.Join(root, "kept"), []byte("x"), 0o600))
	mounts := []snapshot.Mount{
		{Path: "/", Kind: snapshot.MountRoot, Flags: []string{"ro"}},
		{Path: "/proc", FSType: "proc", Kind: snapshot.MountNative},
		{Path: "/proc/keys", Kind: snapshot.MountNull},
		{Path: "/etc/hosts", Kind: snapshot.MountFile},
		{Path: "/kept", Kind: snapshot.MountFile},
	}
	must(t, PrepareRoot(root, mounts))
	for path, isDir := range map[string]bool{"proc": true, "etc/hosts": false, "tmp": true} {
		if st, err := os.Lstat(filepath.Join(root, path)); err != nil || st.IsDir() != isDir {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "proc/keys")); err == nil {
		t.Error("a mount point was made beneath another mount")
	}
	if b, err := os.ReadFile(filepath.Join(root, "kept")); err != nil || string(b) != "x" {
		t.Errorf("what was there became %q, %v", b, err)
	}
	if err := PrepareRoot(root, []snapshot.Mount{{Path: "/away/in", Kind: snapshot.MountFile}}); err == nil {
		t.Error("a mount point behind a link out of the root was made")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
}

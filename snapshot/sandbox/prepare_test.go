package sandbox

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// listing describes a tree: names, types, modes, owners, links, devices, times, contents and attributes.
func listing(t *testing.T, dir string) string {
	t.Helper()
	script := `cd "$1" && find . -printf '%p %y %m %U:%G %l %T@ %n\n' | sort && find . -type b -o -type c | sort | xargs -r stat -c '%n %t:%T' &&
		find . -type f | sort | xargs -r cat && getfattr -hRd -m - . 2>/dev/null || true`
	out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("list %s: %v\n%s", dir, err, out)
	}
	return string(out)
}

func TestCopyTree(t *testing.T) {
	src, dst := filepath.Join(t.TempDir(), "src"), t.TempDir()
	script := `set -e; mkdir -p "$1/d/e"; cd "$1"; echo text >d/file; chmod 4750 d/file; chown 12:34 d/file; chmod 4750 d/file; ln d/file hard
		ln -s /no/where link; chown -h 5:6 link; mknod null c 1 3; mknod disk b 8 1; mkfifo -m 622 pipe; : >empty
		touch -hd 2001-02-03T04:05:06.789 link; touch -d 2003-01-01 d/file d/e d; chmod 1777 d; chown 7 d/e`
	out, err := exec.Command("sh", "-c", script, "sh", src).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, syscall.Setxattr(src+"/d/file", "trusted.test", []byte("value"), 0))
	must(t, copyTree(src, dst))
	if diff := cmp.Diff(listing(t, src), listing(t, dst)); diff != "" {
		t.Errorf("the copy differs:\n%s", diff)
	}
	value := make([]byte, 16)
	if n, err := syscall.Getxattr(dst+"/d/file", "trusted.test", value); err != nil || string(value[:n]) != "value" {
		t.Errorf("the attribute is %q, %v", value[:max(n, 0)], err)
	}
	a, err := os.Stat(dst + "/hard")
	must(t, err)
	b, err := os.Stat(dst + "/d/file")
	must(t, err)
	if !os.SameFile(a, b) {
		t.Error("hard links became two files")
	}
}

func TestPrepareMounts(t *testing.T) {
	dir := t.TempDir()
	content := filepath.Join(dir, "content")
	must(t, os.MkdirAll(content, 0o711))
	must(t, os.WriteFile(content+"/file", []byte("x"), 0o600))
	mounts := []snapshot.Mount{
		{Path: "/", Kind: snapshot.MountRoot},
		{Path: "/run", Kind: snapshot.MountTmpfs, Key: "m:/run", Options: "ro,size=1m,mode=700"},
		{Path: "/run/proc", FSType: "proc", Kind: snapshot.MountNative},
		{Path: "/run/pts/0", FSType: "devpts", Sub: "/0", Kind: snapshot.MountNative},
		{Path: "/run/null", Kind: snapshot.MountNull, Key: "m:/run/null"},
		{Path: "/run/data", Kind: snapshot.MountBind, Source: dir, Key: "m:/run/data"},
		{Path: "/etc/hosts", Kind: snapshot.MountFile, Key: "m:/etc/hosts"},
		{Path: "/etc/conf", Kind: snapshot.MountFile, Key: "m:/etc/conf"},
		{Path: "/etc/none", Kind: snapshot.MountFile, Key: "m:/etc/none"},
		{Path: "/etc/file", Kind: snapshot.MountFile, Key: "m:/etc/file"},
	}
	hosts := filepath.Join(dir, "hosts")
	must(t, os.WriteFile(hosts, []byte("fresh"), 0o644))
	own := filepath.Join(dir, "mounts")
	externals, err := PrepareMounts(own, mounts, map[string]string{"m:/run": content, "m:/etc/conf": content, "m:/etc/hosts": content, "m:/etc/file": content},
		PrepareOptions{Files: map[string]string{"/etc/hosts": hosts}})
	must(t, err)
	sources := make(map[string]string)
	for _, e := range externals {
		key, source, ok := strings.Cut(strings.TrimPrefix(e, "mnt["), "]:")
		if !ok || !filepath.IsAbs(source) {
			t.Errorf("external %q", e)
		}
		sources[key] = source
	}
	if len(sources) != 7 {
		t.Errorf("externals: %v", externals)
	}
	run := sources["m:/run"]
	for path, want := range map[string]string{run + "/file": "x", sources["m:/etc/hosts"]: "fresh", sources["m:/etc/conf"] + "/file": "x",
		sources["m:/etc/none"]: "", sources["m:/etc/file"]: "x", sources["m:/run/data"] + "/hosts": "fresh", sources["m:/run/null"]: ""} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s holds %q (%v), want %q", path, b, err, want)
		}
	}
	for path, dir := range map[string]bool{"proc": true, "pts/0": false, "null": false, "data": true} {
		if st, err := os.Stat(filepath.Join(run, path)); err != nil || st.IsDir() != dir {
			t.Errorf("mount point %s: %v, %v", path, st, err)
		}
	}
	if err := os.WriteFile(run+"/new", nil, 0o600); err == nil {
		t.Error("the tmpfs is not read-only")
	}
	must(t, RemoveMounts(own))
	must(t, RemoveMounts(own))
	if _, err := os.Lstat(own); err == nil {
		t.Error("the directory is still there")
	}
}

func TestMountOverlay(t *testing.T) {
	dir := t.TempDir()
	var lower []string
	for _, name := range []string{"top", "with:colon,comma", "bottom"} {
		lower = append(lower, filepath.Join(dir, name))
		must(t, os.MkdirAll(lower[len(lower)-1], 0o751))
		must(t, os.WriteFile(lower[len(lower)-1]+"/file", []byte(name), 0o644))
		must(t, os.WriteFile(lower[len(lower)-1]+"/in "+name, []byte(name), 0o644))
	}
	must(t, os.Chmod(lower[0], 0o751))
	target := filepath.Join(dir, "rootfs")
	must(t, MountOverlay(target, lower, filepath.Join(dir, "upper"), filepath.Join(dir, "work")))
	defer func() { _ = Unmount(target) }()
	b, err := os.ReadFile(target + "/file")
	must(t, err)
	if string(b) != "top" {
		t.Errorf("the topmost is %q", b)
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) != 4 {
		t.Errorf("entries: %v, %v", entries, err)
	}
	st, err := os.Stat(target)
	must(t, err)
	if st.Mode().Perm() != 0o751 {
		t.Errorf("the root's mode is %v", st.Mode())
	}
	must(t, os.WriteFile(target+"/new", nil, 0o600))
	if _, err := os.Lstat(dir + "/upper/new"); err != nil {
		t.Error(err)
	}
	must(t, Unmount(target))
	must(t, Unmount(target))
	must(t, Unmount(dir+"/nothing"))
	if err := MountOverlay(target, nil, dir+"/upper", dir+"/work"); err == nil {
		t.Error("an overlay of nothing was mounted")
	}
	if err := MountOverlay(target, []string{dir + "/none"}, dir+"/upper", dir+"/work"); err == nil || !strings.Contains(err.Error(), dir+"/none") {
		t.Errorf("a lower directory that is not there: %v", err)
	}
}

func TestSlaveRefusesTheHostsNamespace(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$") // its parent's namespace is this one
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_INSIDE=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "shares its parent's mount namespace") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestWriteFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "files")
	files, err := WriteFiles(dir, "web", snapshot.Network{Mode: "bridge", Address: netip.MustParseAddr("10.88.0.9")})
	must(t, err)
	for path, want := range map[string]string{"/etc/hostname": "web\n", "/etc/hosts": "10.88.0.9\tweb\n", "/etc/resolv.conf": ""} {
		b, err := os.ReadFile(files[path])
		must(t, err)
		if !strings.Contains(string(b), want) {
			t.Errorf("%s holds %q, want %q in it", path, b, want)
		}
	}
	if !loopbackOnly([]byte("# x\nnameserver 127.0.0.53\noptions a\n")) || loopbackOnly([]byte("nameserver 127.0.0.1\nnameserver 10.0.0.1\n")) || loopbackOnly(nil) {
		t.Error("resolvers on loopback are not told from others")
	}
}

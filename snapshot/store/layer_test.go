package store_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// overlay mounts lower directories, topmost first, and returns the upper and the merged directory.
func overlay(t *testing.T, lower ...string) (upper, merged string) {
	t.Helper()
	top := t.TempDir()
	probetest.NeedProbe(t, probe.StateDir(top))
	upper, merged = filepath.Join(top, "upper"), filepath.Join(top, "merged")
	for _, d := range []string{upper, merged, filepath.Join(top, "work")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	opts := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + filepath.Join(top, "work") + ",redirect_dir=off,metacopy=off"
	must(t, syscall.Mount("overlay", merged, "overlay", 0, opts))
	t.Cleanup(func() {
		if err := syscall.Unmount(merged, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return upper, merged
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func applied(t testing.TB, layer []byte) (string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layer")
	must(t, os.Mkdir(dir, 0o700))
	return dir, store.ApplyLayerForTest(t.Context(), dir, bytes.NewReader(layer))
}

func layerOf(t testing.TB, upper string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := store.WriteLayer(t.Context(), &b, upper); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// listing returns the entries of a tar by name.
func listing(t testing.TB, archive []byte) map[string]*tar.Header {
	t.Helper()
	all := make(map[string]*tar.Header)
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h
	}
}

// What a container does to its overlay must look the same through a layer made of its upper directory.
func TestLayerRoundTripThroughOverlay(t *testing.T) {
	lower := t.TempDir()
	for _, name := range []string{"etc/kept", "etc/deleted", "opt/a/x", "opt/a/y", "var/replaced/z", "bin/tool"} {
		write(t, filepath.Join(lower, name), "lower "+name)
	}
	upper, merged := overlay(t, lower)
	stamp := time.Date(2020, 2, 3, 4, 5, 6, 789000000, time.UTC)
	in := func(name string) string { return filepath.Join(merged, name) }
	must(t,
		os.Remove(in("etc/deleted")),
		os.RemoveAll(in("opt/a")), os.Mkdir(in("opt/a"), 0o711), os.WriteFile(in("opt/a/new"), []byte("new"), 0o4755), os.Chmod(in("opt/a/new"), 0o4755|os.ModeSetuid),
		os.RemoveAll(in("var/replaced")), os.WriteFile(in("var/replaced"), []byte("now a file"), 0o600),
		os.Link(in("opt/a/new"), in("opt/a/twin")),
		os.Symlink("/../../etc/kept", in("etc/link")), os.Lchown(in("etc/link"), 12, 34),
		syscall.Mkfifo(in("etc/fifo"), 0o620),
		syscall.Mknod(in("etc/null"), syscall.S_IFCHR|0o666, 1<<8|3),
		os.WriteFile(in("etc/owned"), nil, 0o640), os.Chown(in("etc/owned"), 1000, 100000),
		sys.SetXattr(in("etc/owned"), "user.note", []byte("a\x00b")),
		sys.SetXattr(in("bin/tool"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")),
		os.WriteFile(in(strings.Repeat("long", 50)), []byte("x"), 0o644),
		os.Chtimes(in("etc/owned"), stamp, stamp), os.Chtimes(in("etc"), stamp, stamp),
	)
	sparse, err := os.Create(in("sparse"))
	must(t, err, sparse.Truncate(3<<20))
	_, err = sparse.WriteAt([]byte("middle"), 1<<20)
	must(t, err, sparse.Close())
	var addr = &syscall.SockaddrUnix{Name: in("etc/socket")}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err, syscall.Bind(fd, addr), syscall.Close(fd))

	layer := layerOf(t, upper)
	if again := layerOf(t, upper); !bytes.Equal(layer, again) {
		t.Error("the same directory gives different layers")
	}
	entries := listing(t, layer)
	for _, name := range []string{"etc/.wh.deleted", "opt/a/.wh..wh..opq"} {
		if entries[name] == nil {
			t.Errorf("%s is not in the layer, which has %q", name, slices.Sorted(maps.Keys(entries)))
		}
	}
	for name, h := range entries {
		for k := range h.PAXRecords {
			if strings.Contains(k, "overlay") {
				t.Errorf("%s carries %s", name, k)
			}
		}
	}
	dir, err := applied(t, layer)
	must(t, err)
	_, second := overlay(t, dir, lower)
	a, b := picture(t, merged), picture(t, second)
	delete(a, "etc/socket")
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if a[name] != b[name] {
			t.Errorf("%s was\n  %s and is\n  %s", name, a[name], b[name])
		}
		delete(b, name)
	}
	for name := range b {
		t.Errorf("%s has come from nowhere", name)
	}
	for _, twin := range []string{"opt/a/twin"} {
		x, _ := os.Stat(filepath.Join(dir, twin))
		y, _ := os.Stat(filepath.Join(dir, "opt/a/new"))
		if !os.SameFile(x, y) {
			t.Errorf("%s is no hard link any more", twin)
		}
	}
}

// picture describes every file of a tree.
func picture(t testing.TB, top string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, path)
		if name == "." {
			return nil
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		attrs, err := sys.Xattrs(path)
		if err != nil {
			return err
		}
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(attrs)) {
			b.WriteString(" " + k + "=" + string(attrs[k]))
		}
		content := ""
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			content = read(t, path)
			if len(content) > 100 {
				content = content[1<<20:][:6]
			}
		case syscall.S_IFLNK:
			content, _ = os.Readlink(path)
		case syscall.S_IFDIR:
			st.Nlink = 0
			if !strings.HasSuffix(name, "etc") {
				st.Mtim = syscall.Timespec{}
			}
		}
		all[name] = strings.Join([]string{fs.FileMode(st.Mode & 0o7777).String(), string(rune('0' + st.Mode>>12)), time.Unix(st.Mtim.Unix()).UTC().String(),
			filepath.Base(content), b.String(), string(rune('0' + st.Uid%10)), string(rune('0' + st.Gid%10)), string(rune('0' + st.Nlink))}, "|")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWriteLayerKnowsXattrWhiteouts(t *testing.T) {
	upper := t.TempDir()
	write(t, filepath.Join(upper, "d/gone"), "")
	write(t, filepath.Join(upper, "d/stays"), "")
	must(t, sys.SetXattr(filepath.Join(upper, "d/gone"), "trusted.overlay.whiteout", []byte("y")),
		sys.SetXattr(filepath.Join(upper, "d"), "trusted.overlay.opaque", []byte("x")))
	entries := listing(t, layerOf(t, upper))
	if entries["d/.wh.gone"] == nil || entries["d/stays"] == nil || entries["d/gone"] != nil || entries["d/.wh..wh..opq"] != nil {
		t.Errorf("the layer has %q", slices.Sorted(maps.Keys(entries)))
	}
}

func TestWriteLayerRefusesWhatIsElsewhere(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"redirect": func(d string) error {
			return sys.SetXattr(filepath.Join(d, "f"), "trusted.overlay.redirect", []byte("/x"))
		},
		"metacopy":  func(d string) error { return sys.SetXattr(filepath.Join(d, "f"), "trusted.overlay.metacopy", nil) },
		"wh prefix": func(d string) error { return os.WriteFile(filepath.Join(d, ".wh.x"), nil, 0o600) },
		"disk":      func(d string) error { return syscall.Mknod(filepath.Join(d, "sda"), syscall.S_IFBLK|0o600, 8<<8) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "f"), "")
			must(t, spoil(dir))
			wantKind(t, store.WriteLayer(t.Context(), io.Discard, dir), snapshot.KindUncloneable)
		})
	}
}

func TestWriteTreeStaysInside(t *testing.T) {
	top := t.TempDir()
	write(t, filepath.Join(top, "tree/file"), "in")
	write(t, filepath.Join(top, "secret/file"), "out")
	mnt, covered := filepath.Join(top, "tree/mnt"), filepath.Join(top, "tree/covered")
	must(t, os.Mkdir(mnt, 0o755), os.Symlink(filepath.Join(top, "secret"), filepath.Join(top, "tree/link")))
	write(t, covered, "beneath")
	must(t, syscall.Mount(filepath.Join(top, "secret"), mnt, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(mnt, 0)) })
	must(t, syscall.Mount(filepath.Join(top, "secret/file"), covered, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(covered, 0)) })

	var b bytes.Buffer
	must(t, store.WriteTree(t.Context(), &b, filepath.Join(top, "tree")))
	if bytes.Contains(b.Bytes(), []byte("out")) {
		t.Error("the content of a mount was written")
	}
	entries := listing(t, b.Bytes())
	got := slices.Sorted(maps.Keys(entries))
	if !slices.Equal(got, []string{"./", "covered", "file", "link", "mnt/"}) || entries["covered"].Size != 0 {
		t.Errorf("the tree has %q", got)
	}
}

// A process's root directory decides what the symbolic links on the way to its files mean.
func TestWriteTreeOfAProcess(t *testing.T) {
	write(t, "/tmp/snapd-ctr-store-test/file", "the host's")
	t.Cleanup(func() { must(t, os.RemoveAll("/tmp/snapd-ctr-store-test")) })
	root := t.TempDir()
	write(t, filepath.Join(root, "tmp/snapd-ctr-store-test/file"), "the container's")
	must(t, os.Symlink("/tmp/snapd-ctr-store-test", filepath.Join(root, "shm")))
	must(t, os.Symlink("../../../../tmp/snapd-ctr-store-test", filepath.Join(root, "up")))
	pid := chrooted(t, root)
	for _, link := range []string{"shm", "up"} {
		var b bytes.Buffer
		must(t, store.WriteTree(t.Context(), &b, filepath.Join("/proc", pid, "root", link)))
		if !bytes.Contains(b.Bytes(), []byte("the container's")) {
			t.Errorf("%s led to the host's file", link)
		}
	}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		e.h.Size = int64(len(e.content))
		if e.h.Mode == 0 {
			e.h.Mode = 0o644
		}
		must(t, tw.WriteHeader(e.h))
		_, err := tw.Write(e.content)
		must(t, err)
	}
	must(t, tw.Close())
	return b.Bytes()
}

func TestApplyLayerRefuses(t *testing.T) {
	for name, e := range map[string]*tar.Header{
		"dot dot":            {Typeflag: tar.TypeReg, Name: "../escape"},
		"dot dot inside":     {Typeflag: tar.TypeReg, Name: "a/../../escape"},
		"hard link out":      {Typeflag: tar.TypeLink, Name: "link", Linkname: "../../../etc/passwd"},
		"hard link absolute": {Typeflag: tar.TypeLink, Name: "link", Linkname: "/etc/passwd"},
		"disk":               {Typeflag: tar.TypeBlock, Name: "home/disk", Devmajor: 8},
		"memory":             {Typeflag: tar.TypeChar, Name: "tmp/mem", Devmajor: 1, Devminor: 1},
		"memory in disguise": {Typeflag: tar.TypeChar, Name: "devices/mem", Devmajor: 1, Devminor: 1},
		"whiteout of dot":    {Typeflag: tar.TypeReg, Name: "a/.wh.."},
		"whiteout of dots":   {Typeflag: tar.TypeReg, Name: "a/.wh..."},
		"whiteout of none":   {Typeflag: tar.TypeReg, Name: "a/.wh."},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := applied(t, tarOf(t, entry{e, nil}))
			wantKind(t, err, snapshot.KindCorrupt)
			if err != nil && !strings.Contains(err.Error(), path.Base(e.Name)) {
				t.Errorf("%q does not name %q", err, e.Name)
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(dir), "escape")); err == nil {
				t.Error("it escaped")
			}
		})
	}
}

// Builders of images exist that write absolute names.
func TestApplyLayerTakesAbsoluteNamesAsItsOwn(t *testing.T) {
	name := filepath.Join(t.TempDir(), "app")
	dir, err := applied(t, tarOf(t, entry{regular(name), []byte("x")},
		entry{&tar.Header{Typeflag: tar.TypeLink, Name: "/twin", Linkname: name}, nil}))
	must(t, err)
	if read(t, dir, name) != "x" || read(t, dir, "twin") != "x" {
		t.Error("the files are not inside")
	}
	if _, err := os.Lstat(name); err == nil {
		t.Error("it escaped")
	}
}

// Symbolic links may point anywhere; what is written through them stays inside.
func TestApplyLayerThroughSymlinks(t *testing.T) {
	outside := t.TempDir()
	for name, target := range map[string]string{"absolute": outside, "relative": "../../../../../../../.." + outside} {
		t.Run(name, func(t *testing.T) {
			dir, err := applied(t, tarOf(t, entry{&tar.Header{Typeflag: tar.TypeSymlink, Name: "way", Linkname: target}, nil},
				entry{&tar.Header{Typeflag: tar.TypeReg, Name: "way/file"}, []byte("x")},
				entry{&tar.Header{Typeflag: tar.TypeReg, Name: "way/.wh.victim"}, nil}))
			if err != nil {
				wantKind(t, err, snapshot.KindCorrupt)
			} else if read(t, dir, outside, "file") != "x" {
				t.Error("the file is not inside")
			}
			if left, _ := os.ReadDir(outside); len(left) != 0 {
				t.Errorf("outside holds %v", left)
			}
		})
	}
}

func TestApplyLayerIgnoresForgedMarks(t *testing.T) {
	dir, err := applied(t, tarOf(t, entry{&tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755, PAXRecords: map[string]string{
		"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.redirect": "/x", "SCHILY.xattr.trusted.mine": "z"}}, nil}))
	must(t, err)
	attrs, err := sys.Xattrs(filepath.Join(dir, "etc"))
	must(t, err)
	for k := range attrs {
		if strings.Contains(k, "overlay") || strings.HasPrefix(k, "trusted.") {
			t.Errorf("etc has %s", k)
		}
	}
}

func TestApplyLayerAllowsDevicesInDev(t *testing.T) {
	dir, err := applied(t, tarOf(t, entry{&tar.Header{Typeflag: tar.TypeChar, Name: "./dev/fuse", Devmajor: 10, Devminor: 229}, nil},
		entry{&tar.Header{Typeflag: tar.TypeChar, Name: "jail/null", Devmajor: 1, Devminor: 3}, nil}))
	must(t, err)
	for _, name := range []string{"dev/fuse", "jail/null"} {
		if st, err := os.Lstat(filepath.Join(dir, name)); err != nil || st.Mode()&os.ModeCharDevice == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestApplyLayerCompressedAndTruncated(t *testing.T) {
	plain := tarOf(t, entry{&tar.Header{Typeflag: tar.TypeReg, Name: "a"}, bytes.Repeat([]byte("content"), 10000)})
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(plain)
	must(t, err, z.Close())
	_, err = applied(t, b.Bytes())
	must(t, err)
	for _, layer := range [][]byte{plain[:40000], b.Bytes()[:b.Len()/2], plain[:300]} {
		_, err := applied(t, layer)
		wantKind(t, err, snapshot.KindCorrupt)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.ApplyLayerForTest(ctx, t.TempDir(), bytes.NewReader(plain)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context gives %v", err)
	}
}

func FuzzApplyLayer(f *testing.F) {
	f.Add(tarOf(f, entry{&tar.Header{Typeflag: tar.TypeReg, Name: "a/b"}, []byte("x")}, entry{&tar.Header{Typeflag: tar.TypeSymlink, Name: "c", Linkname: "/"}, nil}))
	f.Add(tarOf(f, entry{&tar.Header{Typeflag: tar.TypeReg, Name: "a/.wh.b"}, nil}, entry{&tar.Header{Typeflag: tar.TypeLink, Name: "d", Linkname: "a"}, nil}))
	upper := f.TempDir()
	holey(f, filepath.Join(upper, "sparse"), 1<<20, map[int64]string{1 << 19: "x"})
	f.Add(layerOf(f, upper))
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, layer []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "sub/layer")
		must(t, os.MkdirAll(dir, 0o700))
		err := store.ApplyLayerForTest(t.Context(), dir, bytes.NewReader(layer))
		if err != nil && snapshot.KindOf(err) != snapshot.KindCorrupt && snapshot.KindOf(err) != snapshot.KindFailed {
			t.Errorf("%v", err)
		}
		for at, want := range map[string]string{top: "sub", filepath.Join(top, "sub"): "layer"} {
			if names, _ := os.ReadDir(at); len(names) != 1 || names[0].Name() != want {
				t.Errorf("%s holds %v", at, names)
			}
		}
	})
}

func regular(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }

// TestLayersOnce has a layer twice, as the clone of a clone has that wrote nothing: overlayfs takes no directory twice.
func TestLayersOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	var digests []string
	for _, name := range []string{"one", "two"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := store.WriteLayer(t.Context(), &b, dir); err != nil {
			t.Fatal(err)
		}
		d, err := s.AddLayer(t.Context(), &b, "")
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
	}
	dirs, err := s.LayerDirs(t.Context(), snapshot.Base{Layers: []string{digests[0], digests[1], digests[0]}})
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) != 2 {
		t.Fatalf("%d directories, want each once", len(dirs))
	}
	if _, err := os.Stat(filepath.Join(dirs[0], "one")); err != nil {
		t.Errorf("the topmost is not the one listed last: %v", err)
	}
}

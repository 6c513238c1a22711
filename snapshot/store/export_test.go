package store_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

func export(t testing.TB, s *store.Store, id string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Export(t.Context(), id, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestExportImport(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "a"))
	base := addBase(t, a, "", map[string]string{"usr/lib/x": "library"})
	sn := publish(t, a, "web", sample{seed: 1, base: base})
	archive := export(t, a, sn.ID)

	b := open(t, filepath.Join(t.TempDir(), "b"))
	got, err := b.Import(t.Context(), bytes.NewReader(archive), "")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != sn.ID || got.Names[0] != "web" {
		t.Errorf("imported %s %v", got.ID, got.Names)
	}
	if err := b.Verify(t.Context(), got.ID); err != nil {
		t.Error(err)
	}
	u, err := b.Unpack(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if read(t, u.Lower[1], "usr/lib/x") != "library" || read(t, u.Images, "pages-1.img") != pages(1, 64) {
		t.Error("the import differs")
	}
	_, err = b.Import(t.Context(), bytes.NewReader(archive), "")
	wantKind(t, err, snapshot.KindExists)
	var packed bytes.Buffer
	z, _ := zstd.NewWriter(&packed)
	_, _ = z.Write(archive)
	z.Close()
	if _, err := b.Import(t.Context(), &packed, "again"); err != nil {
		t.Errorf("compressed: %v", err)
	}
}

func TestExportPacksBaseDirectory(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "a"))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bin/sh"), "shell")
	base := addBase(t, a, dir, map[string]string{"usr/lib/x": "library"})
	sn := publish(t, a, "web", sample{seed: 1, base: base})
	b := open(t, filepath.Join(t.TempDir(), "b"))
	got, err := b.Import(t.Context(), bytes.NewReader(export(t, a, sn.ID)), "other")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID == sn.ID || got.Config.Base.Dir != "" || len(got.Config.Base.Layers) != 2 {
		t.Errorf("imported %s on %+v", got.ID, got.Config.Base)
	}
	u, err := b.Unpack(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Lower) != 3 || read(t, u.Lower[2], "bin/sh") != "shell" || read(t, u.Lower[1], "usr/lib/x") != "library" {
		t.Errorf("lower directories are %q", u.Lower)
	}
}

// rewrite passes every entry of a tar through change, which may return nil to drop it, or more than one.
func rewrite(t testing.TB, archive []byte, change func(h *tar.Header, content []byte) []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range change(h, content) {
			e.h.Size = int64(len(e.content))
			if err := tw.WriteHeader(e.h); err != nil {
				t.Fatal(err)
			}
			if _, err := tw.Write(e.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type entry struct {
	h       *tar.Header
	content []byte
}

func TestImportRefuses(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "a"))
	sn := publish(t, a, "web", sample{seed: 1})
	sound := export(t, a, sn.ID)
	manifest := "blobs/sha256/" + sn.ID[7:]
	var images string
	for _, l := range sn.Layers {
		if l.Role == snapshot.RoleImages {
			images = "blobs/sha256/" + l.Digest[7:]
		}
	}
	keep := func(h *tar.Header, c []byte) []entry { return []entry{{h, c}} }
	add := func(e *tar.Header) func(*tar.Header, []byte) []entry {
		return func(h *tar.Header, c []byte) []entry {
			if h.Name == "oci-layout" {
				return []entry{{h, c}, {e, nil}}
			}
			return keep(h, c)
		}
	}
	tests := []struct {
		name   string
		change func(*tar.Header, []byte) []entry
		kind   snapshot.Kind
		says   string
	}{
		{"dot dot", add(&tar.Header{Typeflag: tar.TypeReg, Name: "../escaped", Mode: 0o644}), snapshot.KindCorrupt, "../escaped"},
		{"absolute", add(&tar.Header{Typeflag: tar.TypeReg, Name: "/tmp/escaped", Mode: 0o644}), snapshot.KindCorrupt, "/tmp/escaped"},
		{"symlink", add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "blobs/sha256/x", Linkname: "/etc"}), snapshot.KindCorrupt, "blobs/sha256/x"},
		{"hard link", add(&tar.Header{Typeflag: tar.TypeLink, Name: "index.json", Linkname: "../../etc/shadow"}), snapshot.KindCorrupt, "index.json"},
		{"device", add(&tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8}), snapshot.KindCorrupt, "disk"},
		{"stranger", add(&tar.Header{Typeflag: tar.TypeReg, Name: "lock"}), snapshot.KindCorrupt, "lock"},
		{"flipped bit", func(h *tar.Header, c []byte) []entry {
			if h.Name == images {
				c[len(c)/2] ^= 1
			}
			return keep(h, c)
		}, snapshot.KindCorrupt, images},
		{"missing blob", func(h *tar.Header, c []byte) []entry {
			if h.Name == images {
				return nil
			}
			return keep(h, c)
		}, snapshot.KindCorrupt, images[len("blobs/sha256/"):]},
		{"missing manifest", func(h *tar.Header, c []byte) []entry {
			if h.Name == manifest {
				return nil
			}
			return keep(h, c)
		}, snapshot.KindCorrupt, sn.ID},
		{"no index", func(h *tar.Header, c []byte) []entry {
			if h.Name == "index.json" {
				return nil
			}
			return keep(h, c)
		}, snapshot.KindCorrupt, "archive"},
		{"newer layout", func(h *tar.Header, c []byte) []entry {
			if h.Name == "oci-layout" {
				c = []byte(`{"imageLayoutVersion":"9"}`)
			}
			return keep(h, c)
		}, snapshot.KindIncompatible, "9"},
	}
	s := open(t, filepath.Join(t.TempDir(), "b"))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.Import(t.Context(), bytes.NewReader(rewrite(t, sound, test.change)), "")
			wantKind(t, err, test.kind)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not name %q", err, test.says)
			}
		})
	}
	for _, n := range []int{0, 100, 5000, len(sound) / 2, len(sound) - 3000} {
		_, err := s.Import(t.Context(), bytes.NewReader(sound[:n]), "")
		wantKind(t, err, snapshot.KindCorrupt)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("something was imported: %v, %v", list, err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), "staging")); len(left) != 0 {
		t.Errorf("staging holds %v", left)
	}
}

func TestImportOfAnotherArchitecture(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "a"))
	tx, err := a.Begin()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tx.Dir(), "images/core-1.img"), "x")
	layers, err := tx.AddImages(filepath.Join(tx.Dir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	sn, err := tx.Publish("alien", snapshot.Config{Architecture: "s390x"}, layers, false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, filepath.Join(t.TempDir(), "b")).Import(t.Context(), bytes.NewReader(export(t, a, sn.ID)), "")
	wantKind(t, err, snapshot.KindIncompatible)
	if err == nil || !strings.Contains(err.Error(), "s390x") || !strings.Contains(err.Error(), runtime.GOARCH) {
		t.Errorf("%v does not name the architectures", err)
	}
}

func TestPodmanRoundTrip(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "a"))
	base := addBase(t, a, "", map[string]string{"usr/lib/x": "library", "srv/hidden": "x", "srv/kept": "old"})
	tx, err := a.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Abort()
	write(t, filepath.Join(tx.Dir(), "images/inventory.img"), "inventory")
	write(t, filepath.Join(tx.Dir(), "images/pages-1.img"), pages(1, 2))
	layers, err := tx.AddImages(filepath.Join(tx.Dir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	for _, h := range []*tar.Header{{Name: "srv/", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "srv/.wh..wh..opq", Typeflag: tar.TypeReg},
		{Name: "srv/kept", Typeflag: tar.TypeReg, Mode: 0o640}, {Name: "usr/lib/.wh.x", Typeflag: tar.TypeReg}} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	tw.Close()
	rootfs, err := tx.AddReader(&layer, "application/vnd.oci.image.layer.v1.tar", snapshot.RoleRootfs, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg := sample{seed: 1, base: base}.config("")
	sn, err := tx.Publish("web", cfg, append(layers, rootfs), false)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := a.ExportPodman(t.Context(), sn.ID, &b); err != nil {
		t.Fatal(err)
	}
	if !store.IsPodmanArchive(bufio.NewReaderSize(bytes.NewReader(b.Bytes()), 1<<16)) {
		t.Error("the archive is not taken for what it is")
	}
	if store.IsPodmanArchive(bufio.NewReaderSize(bytes.NewReader(export(t, a, sn.ID)), 1<<16)) {
		t.Error("an OCI layout is taken for a podman archive")
	}
	got, err := a.ImportPodman(t.Context(), bytes.NewReader(b.Bytes()), "back", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Config.Source != sn.Config.Source || got.Config.Base.Layers[0] != base.Layers[0] {
		t.Errorf("came back as %+v", got.Config)
	}
	u, err := a.Unpack(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/lib/x", "srv/hidden"} {
		st, err := os.Lstat(filepath.Join(u.Lower[0], name))
		if err != nil || st.Mode()&os.ModeCharDevice == 0 {
			t.Errorf("%s is not deleted: %v, %v", name, st, err)
		}
	}
	if st, err := os.Lstat(filepath.Join(u.Lower[0], "srv/kept")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("srv/kept: %v, %v", st, err)
	}
	if read(t, u.Images, "pages-1.img") != pages(1, 2) {
		t.Error("pages differ")
	}
	// Another store has no such base.
	_, err = open(t, filepath.Join(t.TempDir(), "b")).ImportPodman(t.Context(), bytes.NewReader(b.Bytes()), "back", nil)
	wantKind(t, err, snapshot.KindIncompatible)
	if !strings.Contains(snapshot.HintOf(err), "--base") {
		t.Errorf("the hint is %q", snapshot.HintOf(err))
	}
}

// theirs is an archive as podman writes it.
func theirs(t testing.TB, more ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	var diff bytes.Buffer
	dw := tar.NewWriter(&diff)
	_ = dw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "data/deep/new", Mode: 0o600, Size: 3})
	_, _ = dw.Write([]byte("new"))
	dw.Close()
	for _, e := range append([]entry{
		{&tar.Header{Typeflag: tar.TypeDir, Name: "checkpoint/", Mode: 0o700}, nil},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/inventory.img"}, []byte("inventory")},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/pages-1.img"}, []byte(pages(5, 1))},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "config.dump"}, []byte(`{"id":"abc","name":"counter","rootfsImageName":"docker.io/library/busybox:latest","runtime":"crun","createdTime":"2024-01-02T03:04:05Z","ignored":{"x":1}}`)},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "spec.dump"}, []byte(`{"ociVersion":"1.0.0","hostname":"abc","process":{"args":["sleep","100"],"cwd":"/"},
			"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev/shm","type":"bind","source":"/x/shm","options":["bind"]},
			{"destination":"/etc/hosts","type":"bind","source":"/x/hosts","options":["bind","rprivate"]}],
			"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}],"resources":{"memory":{"limit":1048576},"cpu":{"quota":150000,"period":100000},"pids":{"limit":77}}}}`)},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "rootfs-diff.tar"}, diff.Bytes()},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "deleted.files"}, []byte(`["/data/old"]`)},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "network.status"}, []byte(`{}`)},
	}, more...) {
		e.h.Size = int64(len(e.content))
		if err := tw.WriteHeader(e.h); err != nil {
			t.Fatal(err)
		}
		_, _ = tw.Write(e.content)
	}
	tw.Close()
	return b.Bytes()
}

func TestImportOfPodmansOwn(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	archive := theirs(t)
	_, err := s.ImportPodman(t.Context(), bytes.NewReader(archive), "counter", nil)
	wantKind(t, err, snapshot.KindIncompatible)

	dir := t.TempDir()
	write(t, filepath.Join(dir, "data/old"), "old")
	if err := os.Chmod(filepath.Join(dir, "data"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := s.PinImage("docker.io/library/busybox:latest", snapshot.Base{Dir: dir}, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	sn, err := s.ImportPodman(t.Context(), bytes.NewReader(archive), "counter", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := snapshot.Limits{MemoryBytes: 1048576, CPUs: 1.5, Pids: 77}
	if c := sn.Config; c.Limits != want || c.Args[0] != "sleep" || c.Source.Name != "counter" || c.NetnsKey == "" || c.Base.Dir != dir {
		t.Errorf("translated to %+v", c)
	}
	var kinds []string
	for _, m := range sn.Config.Mounts {
		kinds = append(kinds, fmt.Sprintf("%s:%s:%s", m.Path, m.Kind, m.Key))
	}
	if got := strings.Join(kinds, " "); got != "/:root: /proc:native: /dev/shm:tmpfs:/dev/shm /etc/hosts:file:/etc/hosts" {
		t.Errorf("mounts are %s", got)
	}
	u, err := s.Unpack(t.Context(), sn.ID)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(filepath.Join(u.Lower[0], "data/old")); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("data/old is not deleted: %v", err)
	}
	if st, err := os.Lstat(filepath.Join(u.Lower[0], "data")); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("a directory that the archive does not list has lost the image's mode: %v, %v", st.Mode(), err)
	}
	if read(t, u.Lower[0], "data/deep/new") != "new" {
		t.Error("data/deep/new differs")
	}
}

func TestImportPodmanRefuses(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	base := &snapshot.Base{Dir: t.TempDir()}
	for name, e := range map[string]entry{
		"dot dot":       {&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/../../x"}, nil},
		"symlink":       {&tar.Header{Typeflag: tar.TypeSymlink, Name: "checkpoint/core-1.img", Linkname: "/etc/shadow"}, nil},
		"device":        {&tar.Header{Typeflag: tar.TypeChar, Name: "artifacts", Devmajor: 1, Devminor: 1}, nil},
		"twice":         {&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/inventory.img"}, nil},
		"deleted files": {&tar.Header{Typeflag: tar.TypeReg, Name: "deleted.files"}, []byte(`["x`)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.ImportPodman(t.Context(), bytes.NewReader(theirs(t, e)), "x", base)
			wantKind(t, err, snapshot.KindCorrupt)
		})
	}
	incremental := entry{&tar.Header{Typeflag: tar.TypeSymlink, Name: "checkpoint/parent", Linkname: "../pre-checkpoint"}, nil}
	_, err := s.ImportPodman(t.Context(), bytes.NewReader(theirs(t, incremental)), "x", base)
	wantKind(t, err, snapshot.KindIncompatible)
}

// checkpointctl builds the reader that people use, or skips.
func checkpointctl(t *testing.T) string {
	t.Helper()
	const module = "github.com/checkpoint-restore/checkpointctl"
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for _, args := range [][]string{{"mod", "init", "example.org/x"}, {"get", module + "@v1.4.0"}, {"build", "-o", "checkpointctl", module}} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("checkpointctl cannot be had: go %s: %v\n%s", args[0], err, out)
		}
	}
	return filepath.Join(dir, "checkpointctl")
}

func TestCheckpointctlReadsOurs(t *testing.T) {
	ctl := checkpointctl(t)
	s := open(t, filepath.Join(t.TempDir(), "store"))
	sn := publish(t, s, "web", sample{seed: 1})
	file := filepath.Join(t.TempDir(), "web.tar.zst")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ExportPodman(t.Context(), sn.ID, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, args := range [][]string{{"show", file}, {"inspect", file}, {"inspect", "--stats", "--mounts", "--metadata", file}, {"inspect", "--format", "json", file}} {
		out, err := exec.Command(ctl, args...).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("0123456789ab")) || !bytes.Contains(out, []byte("web")) {
			t.Errorf("checkpointctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

package store_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

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
	got, err := b.Import(t.Context(), bytes.NewReader(archive), "", nil)
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
	_, err = b.Import(t.Context(), bytes.NewReader(archive), "", nil)
	wantKind(t, err, snapshot.KindExists)
	var packed bytes.Buffer
	z, _ := zstd.NewWriter(&packed)
	_, _ = z.Write(archive)
	z.Close()
	if _, err := b.Import(t.Context(), &packed, "again", nil); err != nil {
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
	got, err := b.Import(t.Context(), bytes.NewReader(export(t, a, sn.ID)), "other", nil)
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
			_, err := s.Import(t.Context(), bytes.NewReader(rewrite(t, sound, test.change)), "", nil)
			wantKind(t, err, test.kind)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not name %q", err, test.says)
			}
		})
	}
	for _, n := range []int{600, 5000, len(sound) / 2, len(sound) - 3000} {
		_, err := s.Import(t.Context(), bytes.NewReader(sound[:n]), "", nil)
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
	_, err = open(t, filepath.Join(t.TempDir(), "b")).Import(t.Context(), bytes.NewReader(export(t, a, sn.ID)), "", nil)
	wantKind(t, err, snapshot.KindIncompatible)
	if err == nil || !strings.Contains(err.Error(), "s390x") || !strings.Contains(err.Error(), runtime.GOARCH) {
		t.Errorf("%v does not name the architectures", err)
	}
}

// What is no archive at all is not called a damaged one.
func TestImportOfSomethingElse(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	tree := t.TempDir()
	write(t, filepath.Join(tree, "etc/passwd"), "root")
	var rootfs bytes.Buffer
	if err := store.WriteTree(t.Context(), &rootfs, tree); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty": "", "text": "hello\n", "noise": pages(1, 2), "long text": strings.Repeat("hello\n", 1000), "empty tar": string(make([]byte, 1024)),
		"root file system": rootfs.String(), "compressed text": string(packed(t, []byte("hello\n"))),
	} {
		read := map[string]func() (*snapshot.Snapshot, error){"oci": func() (*snapshot.Snapshot, error) {
			return s.Import(t.Context(), strings.NewReader(content), "", nil)
		}}
		if name != "root file system" { // podman's may hold anything besides
			read["podman"] = func() (*snapshot.Snapshot, error) {
				return s.ImportPodman(t.Context(), strings.NewReader(content), "", nil, adopt, nil)
			}
		}
		for format, read := range read {
			_, err := read()
			wantKind(t, err, snapshot.KindInvalid)
			if err != nil && (!strings.Contains(err.Error(), "not an archive") || snapshot.HintOf(err) == "") {
				t.Errorf("%s as %s: %v (%s)", name, format, err, snapshot.HintOf(err))
			}
		}
	}
	_, err := s.Import(t.Context(), strings.NewReader("\xfd7zXZ\x00"), "", nil)
	wantKind(t, err, snapshot.KindInvalid)
	if err != nil && !strings.Contains(err.Error(), "compressed with xz") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Import(ctx, strings.NewReader("hello\n"), "", nil)
	wantKind(t, err, snapshot.KindFailed)
}

func packed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

package image_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/image"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

var _ image.Layers = (*store.Store)(nil)

// TestLoadIntoStore takes a root file system all the way to the directory that an overlay stands on.
func TestLoadIntoStore(t *testing.T) {
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, h := range []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/hostname", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4},
		{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/hostname"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("host")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(path, data.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Load(t.Context(), path, s, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := s.LayerDirs(t.Context(), snapshot.Base{Layers: img.Layers})
	if err != nil || len(dirs) != 1 {
		t.Fatalf("LayerDirs: %v, %v", dirs, err)
	}
	if got, err := os.ReadFile(filepath.Join(dirs[0], "etc/hostname")); err != nil || string(got) != "host" {
		t.Errorf("etc/hostname holds %q, %v", got, err)
	}
	if err := os.WriteFile(path, data.Bytes()[:1600], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Load(t.Context(), path, s, image.Options{}); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("a truncated archive gives %v", err)
	}
}

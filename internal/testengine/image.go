package testengine

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
)

// Image is the image that the engines have: a busybox.
const Image = "localhost/busybox:latest"

// Rootfs fills dir, which must not exist, with a busybox that a container may write to, and returns dir.
func Rootfs(t *testing.T, dir string) string {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(testrootfs.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// imageArchive writes Image into dir, as an archive of Docker's, and returns its path.
func imageArchive(t *testing.T, dir string) string {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := errors.Join(w.AddFS(os.DirFS(testrootfs.Busybox(t))), w.Close()); err != nil {
		t.Fatal(err)
	}
	config := toJSON(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest := toJSON(t, []any{map[string]any{"Config": configName, "RepoTags": []string{Image}, "Layers": []string{"layer.tar"}}})
	var archive bytes.Buffer
	w = tar.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {configName, config}, {"layer.tar", layer.Bytes()}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := dir + "/image.tar"
	write(t, path, archive.Bytes())
	return path
}

func toJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

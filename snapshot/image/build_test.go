package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeLayers is a Layers in memory.
type fakeLayers struct {
	mu    sync.Mutex
	blobs map[string][]byte
	types map[string]string
	fail  error // what AddLayer returns
	lazy  bool  // do not read
}

func newFake() *fakeLayers {
	return &fakeLayers{blobs: map[string][]byte{}, types: map[string]string{}}
}

func (f *fakeLayers) AddLayer(_ context.Context, r io.Reader, mediaType string) (string, error) {
	if f.fail != nil {
		return "", f.fail
	}
	if f.lazy {
		return "sha256:lazy", nil
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return "", errors.New("the store hides the cause")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := digest.FromBytes(data).String()
	f.blobs[d], f.types[d] = data, mediaType
	return d, nil
}

// file is an entry of a tar that a test makes.
type file struct {
	name, body, link string
	kind             byte
}

func tarOf(t *testing.T, files ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.body)), Typeflag: f.kind, Linkname: f.link}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func rootfs(t *testing.T, marker string) []byte {
	return tarOf(t, file{name: "./", kind: tar.TypeDir}, file{name: "./etc/", kind: tar.TypeDir},
		file{name: "./etc/marker", body: marker}, file{name: "./bin", link: "usr/bin", kind: tar.TypeSymlink},
		file{name: "./abs", link: "/etc/marker", kind: tar.TypeSymlink}, file{name: "./hard", link: "./etc/marker", kind: tar.TypeLink})
}

func gz(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// layoutFiles are the files of an OCI layout by name.
type layoutFiles map[string][]byte

func (o layoutFiles) put(mediaType string, data []byte) v1.Descriptor {
	d := digest.FromBytes(data)
	o[path.Join("blobs/sha256", d.Encoded())] = data
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// plainLayer is a layer's plain tar and how it is compressed in the image.
type plainLayer struct {
	plain []byte
	pack  func(*testing.T, []byte) []byte
}

func (o layoutFiles) image(t *testing.T, arch string, config v1.ImageConfig, layers ...plainLayer) v1.Descriptor {
	t.Helper()
	img := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: arch}, Config: config, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, l := range layers {
		data, mediaType := l.plain, v1.MediaTypeImageLayer
		if l.pack != nil {
			data, mediaType = l.pack(t, l.plain), v1.MediaTypeImageLayerGzip
		}
		m.Layers = append(m.Layers, o.put(mediaType, data))
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l.plain))
	}
	m.Config = o.put(v1.MediaTypeImageConfig, marshal(t, img))
	d := o.put(v1.MediaTypeImageManifest, marshal(t, m))
	d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
	return d
}

func (o layoutFiles) index(t *testing.T, entries ...v1.Descriptor) v1.Descriptor {
	return o.put(v1.MediaTypeImageIndex, marshal(t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex, Manifests: entries}))
}

func (o layoutFiles) finish(t *testing.T, entries ...v1.Descriptor) {
	o["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	o["index.json"] = marshal(t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: entries})
}

func (o layoutFiles) asDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range o {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (o layoutFiles) asTar(t *testing.T) []byte {
	var files []file
	for _, name := range slices.Sorted(maps.Keys(o)) {
		files = append(files, file{name: name, body: string(o[name])})
	}
	return tarOf(t, files...)
}

func tagged(d v1.Descriptor, tag string) v1.Descriptor {
	d.Annotations = map[string]string{v1.AnnotationRefName: tag}
	return d
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return to
}

// dockerArchive is what docker save wrote before it knew of OCI: a directory a layer.
func dockerArchive(t *testing.T, arch string, config v1.ImageConfig, tags []string, layers ...[]byte) []file {
	t.Helper()
	img := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: arch}, Config: config}
	var files []file
	var names []string
	for _, data := range layers {
		d := digest.FromBytes(data)
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, d)
		name := d.Encoded() + "/layer.tar"
		names = append(names, name)
		files = append(files, file{name: name, body: string(data)})
	}
	raw := marshal(t, img)
	configName := digest.FromBytes(raw).Encoded() + ".json"
	return append(files, file{name: configName, body: string(raw)},
		file{name: "manifest.json", body: string(marshal(t, []dockerImage{{configName, tags, names}}))})
}

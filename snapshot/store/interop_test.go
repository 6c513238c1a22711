package store_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
)

// Another implementation of OCI layouts must find its way through ours.
func TestLayoutIsReadByOras(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	sn := publish(t, s, "web", sample{seed: 1})
	must(t, s.Tag("web", "frontend"))
	theirs, err := oci.NewFromFS(t.Context(), os.DirFS(s.Dir()))
	must(t, err)
	for _, ref := range []string{"web", "frontend", sn.ID} {
		d, err := theirs.Resolve(t.Context(), ref)
		if err != nil || string(d.Digest) != sn.ID {
			t.Fatalf("%s is %v, %v", ref, d, err)
		}
		all, err := content.Successors(t.Context(), theirs, d)
		must(t, err)
		if len(all) != 1+len(sn.Layers) {
			t.Errorf("%s has %d blobs", ref, len(all))
		}
		for _, blob := range all {
			b, err := content.FetchAll(t.Context(), theirs, blob) // verifies digest and size
			must(t, err)
			if blob.MediaType != snapshot.MediaConfig {
				continue
			}
			var cfg snapshot.Config
			must(t, json.Unmarshal(b, &cfg))
			if cfg.Source.Name != "web" {
				t.Errorf("the config is %s", b)
			}
		}
	}
}

// What docs/store-format.md shows must be what the store writes.
func TestDocumentedManifest(t *testing.T) {
	doc, err := os.ReadFile("../../docs/store-format.md")
	must(t, err)
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(doc, -1)
	var shown v1.Manifest
	var index v1.Index
	for _, b := range blocks {
		var kind struct {
			ArtifactType string
			Manifests    []json.RawMessage
		}
		if err := json.Unmarshal(b[1], &kind); err != nil {
			t.Errorf("an example is no JSON: %v\n%s", err, b[1])
		}
		switch {
		case kind.ArtifactType != "":
			must(t, json.Unmarshal(b[1], &shown))
		case kind.Manifests != nil:
			must(t, json.Unmarshal(b[1], &index))
		}
	}
	s := open(t, filepath.Join(t.TempDir(), "store"))
	base := addBase(t, s, "", map[string]string{"x": "base"})
	sn := publish(t, s, "web", sample{seed: 1, base: base})
	var real v1.Manifest
	must(t, json.Unmarshal([]byte(read(t, s.Dir(), "blobs/sha256", sn.ID[7:])), &real))
	if shown.MediaType != real.MediaType || shown.ArtifactType != real.ArtifactType || shown.Config.MediaType != real.Config.MediaType {
		t.Errorf("the example is %s %s, a real one %s %s", shown.MediaType, shown.ArtifactType, real.MediaType, real.ArtifactType)
	}
	types := func(m v1.Manifest) map[string]string {
		all := make(map[string]string)
		for _, l := range m.Layers {
			all[l.Annotations[snapshot.AnnotationRole]] = l.MediaType
		}
		return all
	}
	for role, mt := range types(real) {
		if types(shown)[role] != mt {
			t.Errorf("role %s has media type %q in the example and %q in fact", role, types(shown)[role], mt)
		}
	}
	var own v1.Index
	must(t, json.Unmarshal([]byte(read(t, s.Dir(), "index.json")), &own))
	if len(index.Manifests) == 0 || index.Manifests[0].ArtifactType != own.Manifests[0].ArtifactType || index.Manifests[0].Annotations[v1.AnnotationRefName] == "" {
		t.Errorf("the example of the index is %+v", index)
	}
}

func BenchmarkPublish(b *testing.B)     { benchmark(b, false) }
func BenchmarkFirstUnpack(b *testing.B) { benchmark(b, true) }

// benchmark stores, or unpacks, a snapshot with as many pages as the Python server of the demonstration has.
func benchmark(b *testing.B, unpack bool) {
	const size = 177 << 20
	b.SetBytes(size)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		s := open(b, filepath.Join(b.TempDir(), "store"))
		tx, err := s.Begin()
		must(b, err)
		images := filepath.Join(tx.Dir(), "images")
		write(b, filepath.Join(images, "inventory.img"), "inventory")
		write(b, filepath.Join(images, "pages-1.img"), pages(uint64(i), size/4096))
		store := func() string {
			layers, err := tx.AddImages(images)
			must(b, err)
			sn, err := tx.Publish("", sample{}.config(""), layers, false)
			must(b, err)
			return sn.ID
		}
		if !unpack {
			b.StartTimer()
			store()
			continue
		}
		id := store()
		b.StartTimer()
		_, err = s.Unpack(b.Context(), id)
		must(b, err)
	}
}

// BenchmarkFurtherUnpack finds a snapshot that has been unpacked: what each clone but the first costs the store.
func BenchmarkFurtherUnpack(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "store"))
	sn := publish(b, s, "web", sample{seed: 1})
	for b.Loop() {
		_, err := s.Unpack(b.Context(), sn.ID)
		must(b, err)
	}
}

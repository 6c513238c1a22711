package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Get returns the snapshot that ref means.
func (s *Store) Get(ref string) (*snapshot.Snapshot, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	id, err := resolve(x, ref)
	if err != nil {
		return nil, err
	}
	return s.load(x, id)
}

// List returns all snapshots, oldest first. Those that can be read are returned even when others cannot; the error
// then joins what is wrong with each of the others. Of those whose blobs are missing or cut short, Damage says so.
func (s *Store) List() ([]*snapshot.Snapshot, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var list []*snapshot.Snapshot
	var errs []error
	seen := make(map[string]bool)
	for _, d := range x.Manifests {
		if !isOurs(d) || seen[string(d.Digest)] {
			continue
		}
		seen[string(d.Digest)] = true
		sn, err := s.load(x, string(d.Digest))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, sn)
	}
	slices.SortStableFunc(list, func(a, b *snapshot.Snapshot) int { return a.Config.Created.Compare(b.Config.Created) })
	return list, errors.Join(errs...)
}

// load reads a snapshot's manifest and config.
func (s *Store) load(x *v1.Index, id string) (*snapshot.Snapshot, error) {
	m, size, err := s.readManifest(id)
	if err != nil {
		return nil, err
	}
	sn := &snapshot.Snapshot{ID: id, Bytes: size + m.Config.Size}
	b, err := s.readBlob(string(m.Config.Digest))
	if err != nil {
		return nil, err
	}
	if err := decodeConfig(b, id, &sn.Config); err != nil {
		return nil, err
	}
	for _, d := range x.Manifests {
		if name := nameOf(d); string(d.Digest) == id && name != "" {
			sn.Names = append(sn.Names, name)
		}
	}
	slices.Sort(sn.Names)
	counted := make(map[string]bool)
	damaged := 0
	for _, d := range m.Layers {
		l := layerOf(d)
		sn.Layers = append(sn.Layers, l)
		if counted[l.Digest] {
			continue
		}
		counted[l.Digest] = true
		sn.Bytes += l.Size
		if s.present(d) != nil {
			damaged++
		}
	}
	if damaged > 0 {
		sn.Damage = fmt.Sprintf("%d of %d blobs missing or cut short", damaged, len(counted))
	}
	return sn, nil
}

func decodeConfig(b []byte, id string, cfg *snapshot.Config) error {
	if err := json.Unmarshal(b, cfg); err != nil {
		return corrupt("read config", id, "%w", err)
	}
	if cfg.Version > snapshot.ConfigVersion {
		return incompatible("read config", id, "a newer snapd-ctr made it; update this one",
			"its config has version %d, and this program knows %d", cfg.Version, snapshot.ConfigVersion)
	}
	return nil
}

// readManifest returns a manifest and its size in bytes.
func (s *Store) readManifest(id string) (*v1.Manifest, int64, error) {
	b, err := s.readBlob(id)
	if err != nil {
		return nil, 0, err
	}
	m, err := parseManifest(b, id)
	return m, int64(len(b)), err
}

func layerOf(d v1.Descriptor) snapshot.Layer {
	return snapshot.Layer{Digest: string(d.Digest), MediaType: d.MediaType, Size: d.Size,
		Role: d.Annotations[snapshot.AnnotationRole], Name: d.Annotations[snapshot.AnnotationName]}
}

// present says whether a blob is there and has the size that the manifest says.
func (s *Store) present(d v1.Descriptor) error {
	st, err := os.Stat(s.blobPath(string(d.Digest)))
	if err != nil {
		return missing("check blob", string(d.Digest), err)
	}
	if st.Size() != d.Size {
		return corrupt("check blob", string(d.Digest), "it has %d bytes and should have %d", st.Size(), d.Size)
	}
	return nil
}

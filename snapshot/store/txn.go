package store

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Txn is a snapshot in the making. It is not safe for concurrent use. Until Publish returns, nothing of it can be seen
// in the store; when its process dies, everything of it goes.
type Txn struct {
	s *Store
	e *lease // nil when the transaction is over
}

// Begin starts a transaction.
func (s *Store) Begin() (*Txn, error) {
	e, err := s.newLease()
	if err != nil {
		return nil, failure("begin", s.dir, err)
	}
	return &Txn{s: s, e: e}, nil
}

// Dir returns the staging directory, which is on the store's file system, so that AddFile and AddImages can rename
// what was staged there. It goes with the transaction.
func (t *Txn) Dir() string { return t.e.dir }

// Abort ends the transaction and deletes what was staged. After Publish, and when called again, it does nothing.
func (t *Txn) Abort() error {
	if t.e == nil {
		return nil
	}
	e := t.e
	t.e = nil
	return failure("abort", e.dir, e.Close())
}

// AddFile makes the file a blob of the snapshot. The file is moved, not copied, unless it is on another file system.
func (t *Txn) AddFile(path, mediaType, role, name string) (snapshot.Layer, error) {
	local, err := t.e.bring(path)
	if err != nil {
		return snapshot.Layer{}, failure("store", path, err)
	}
	d, size, err := digestFile(local)
	if err == nil {
		err = t.s.adopt(t.e, &staged{local, d, size})
	}
	if err != nil {
		return snapshot.Layer{}, failure("store", path, err)
	}
	return snapshot.Layer{Digest: d, MediaType: mediaType, Size: size, Role: role, Name: name}, nil
}

// AddReader stores what r yields as a blob of the snapshot.
func (t *Txn) AddReader(r io.Reader, mediaType, role, name string) (snapshot.Layer, error) {
	b, err := t.e.stage(r)
	if err != nil {
		return snapshot.Layer{}, failure("store", role, err)
	}
	return t.addStaged(b, mediaType, role, name)
}

// addStaged makes a staged file a blob of the snapshot.
func (t *Txn) addStaged(b *staged, mediaType, role, name string) (snapshot.Layer, error) {
	if err := t.s.adopt(t.e, b); err != nil {
		return snapshot.Layer{}, failure("store", role, err)
	}
	return snapshot.Layer{Digest: b.digest, MediaType: mediaType, Size: b.size, Role: role, Name: name}, nil
}

// Publish makes the snapshot visible under the name; an empty name makes one that only its id finds. Layers of
// cfg.Base that are not among layers are added to the manifest, so that it names everything the snapshot needs. When
// it returns an error, nothing has become visible, and the transaction can still be aborted. A name that is taken is
// KindExists, or, with replace, moves to the new snapshot.
func (t *Txn) Publish(name string, cfg snapshot.Config, layers []snapshot.Layer, replace bool) (*snapshot.Snapshot, error) {
	if cfg.Version == 0 {
		cfg.Version = snapshot.ConfigVersion
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		return nil, failure("publish", name, err)
	}
	m, err := t.s.manifest(cfg, config, layers)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, failure("publish", name, err)
	}
	return t.publish(name, config, raw, m, replace)
}

// publish stores the config and the manifest as they are given and enters the manifest in the index.
func (t *Txn) publish(name string, config, raw []byte, m *v1.Manifest, replace bool) (*snapshot.Snapshot, error) {
	if name != "" {
		if err := snapshot.CheckName(name); err != nil {
			return nil, err
		}
		if err := t.s.checkFree(name, replace); err != nil {
			return nil, err // early, before anything slow
		}
	}
	if _, err := t.s.putBlob(t.e, config); err != nil {
		return nil, failure("publish", name, err)
	}
	if err := fault.Point("store.config"); err != nil {
		return nil, failure("publish", name, err)
	}
	id, err := t.s.putBlob(t.e, raw)
	if err != nil {
		return nil, failure("publish", name, err)
	}
	if err := fault.Point("store.manifest"); err != nil {
		return nil, failure("publish", name, err)
	}
	if err := t.s.syncBlobs(id, m); err != nil {
		return nil, failure("publish", name, err)
	}
	if err := t.s.enter(name, id, int64(len(raw)), m, replace); err != nil {
		return nil, failure("publish", name, err)
	}
	_ = t.Abort() // what it could not delete the next Open deletes
	return t.s.Get(id)
}

// manifest builds the manifest of a snapshot: base layers first, bottom first.
func (s *Store) manifest(cfg snapshot.Config, config []byte, layers []snapshot.Layer) (*v1.Manifest, error) {
	m := &v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: snapshot.ArtifactType,
		Config:       v1.Descriptor{MediaType: snapshot.MediaConfig, Digest: digest.Digest(digestOf(config)), Size: int64(len(config))}}
	for _, d := range cfg.Base.Layers {
		if slices.ContainsFunc(layers, func(l snapshot.Layer) bool { return l.Digest == d && l.Role == snapshot.RoleBase }) {
			continue
		}
		l, err := s.baseLayer(d)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, descriptorOf(l))
	}
	for _, l := range layers {
		if err := checkDigest(l.Digest); err != nil {
			return nil, invalid("publish", l.Role, "", "%w", err)
		}
		m.Layers = append(m.Layers, descriptorOf(l))
	}
	return m, nil
}

// baseLayer describes a layer blob that the store has.
func (s *Store) baseLayer(d string) (snapshot.Layer, error) {
	if err := checkDigest(d); err != nil {
		return snapshot.Layer{}, invalid("publish", d, "", "%w", err)
	}
	st, err := os.Stat(s.blobPath(d))
	if err != nil {
		return snapshot.Layer{}, missing("publish", d, err)
	}
	mt, err := layerMediaType(s.blobPath(d))
	if err != nil {
		return snapshot.Layer{}, failure("publish", d, err)
	}
	return snapshot.Layer{Digest: d, MediaType: mt, Size: st.Size(), Role: snapshot.RoleBase}, nil
}

func descriptorOf(l snapshot.Layer) v1.Descriptor {
	d := v1.Descriptor{MediaType: l.MediaType, Digest: digest.Digest(l.Digest), Size: l.Size,
		Annotations: map[string]string{snapshot.AnnotationRole: l.Role}}
	if l.Name != "" {
		d.Annotations[snapshot.AnnotationName] = l.Name
	}
	return d
}

// syncBlobs makes everything that a manifest names durable, many blobs at a time because each waits for the disk.
func (s *Store) syncBlobs(id string, m *v1.Manifest) error {
	digests := []string{id, string(m.Config.Digest)}
	for _, l := range m.Layers {
		digests = append(digests, string(l.Digest))
	}
	errs := make([]error, len(digests))
	gate := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, d := range digests {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if err := syncPath(s.blobPath(d)); err != nil {
				errs[i] = missing("publish", d, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.blobPath(id)))
}

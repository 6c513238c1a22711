package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// maxJSON is the largest index, manifest or config that is read, in bytes.
const maxJSON = 16 << 20

// initLayout writes oci-layout and an empty index where there are none, and checks them where there are.
func (s *Store) initLayout() error {
	b, err := os.ReadFile(s.path(fileLayout))
	if errors.Is(err, fs.ErrNotExist) {
		return s.createLayout()
	}
	if err != nil {
		return failure("open store", s.dir, err)
	}
	return checkLayout(b, s.dir)
}

func checkLayout(b []byte, where string) error {
	var l v1.ImageLayout
	if err := json.Unmarshal(b, &l); err != nil {
		return corrupt("open store", where+"/"+fileLayout, "%w", err)
	}
	if l.Version != v1.ImageLayoutVersion {
		return incompatible("open store", where, "it was made by another program or by a newer snapd-ctr",
			"its layout version is %q, not %q", l.Version, v1.ImageLayoutVersion)
	}
	return nil
}

// createLayout writes the index before oci-layout: the latter says that the store is complete. Where there are blobs
// already, the index was lost, and an empty one would have them collected.
func (s *Store) createLayout() error {
	l, err := s.lockStore(true)
	if err != nil {
		return failure("open store", s.dir, err)
	}
	defer l.Close()
	blobs, err := os.ReadDir(s.path(dirBlobs))
	if err != nil {
		return failure("open store", s.dir, err)
	}
	if _, err := os.Stat(s.path(fileIndex)); errors.Is(err, fs.ErrNotExist) && len(blobs) == 0 {
		if err := s.writeIndex(emptyIndex()); err != nil {
			return failure("open store", s.dir, err)
		}
	}
	b, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return failure("open store", s.dir, s.replaceFile(fileLayout, b))
}

func emptyIndex() *v1.Index {
	return &v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{}}
}

func (s *Store) readIndex() (*v1.Index, error) {
	b, err := os.ReadFile(s.path(fileIndex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.badIndex(err)
	}
	if err != nil {
		return nil, failure("read index", s.dir, err)
	}
	x := emptyIndex()
	if err := json.Unmarshal(b, x); err != nil {
		return nil, s.badIndex(err)
	}
	for _, d := range x.Manifests {
		if err := checkDigest(string(d.Digest)); err != nil {
			return nil, s.badIndex(err)
		}
	}
	return x, nil
}

func (s *Store) writeIndex(x *v1.Index) error {
	b, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	return s.replaceFile(fileIndex, append(b, '\n'))
}

// commitIndex is the one step of a publication that others can see. When it returns an error, the index is as it was.
// The store's lock is held.
func (s *Store) commitIndex(x *v1.Index) error {
	old, err := s.readIndex()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := s.writeTemp(fileIndex, append(b, '\n'))
	if err != nil {
		return err
	}
	if err := fault.Point("store.index-tmp"); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, s.path(fileIndex)); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	err = fault.Point("store.index")
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return errors.Join(err, s.writeIndex(old))
	}
	return nil
}

// replaceFile gives a file of the store's top directory new content, durably and atomically.
func (s *Store) replaceFile(name string, content []byte) error {
	tmp, err := s.writeTemp(name, content)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path(name)); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(s.dir)
}

// writeTemp writes and syncs a file in staging and returns its path. The store's lock is held: the name is fixed, so
// that what a killed process left is simply overwritten.
func (s *Store) writeTemp(name string, content []byte) (string, error) {
	tmp := s.path(dirStaging, name+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(tmp))
	}
	return tmp, nil
}

func syncDir(dir string) error { return syncPath(dir) }

// syncPath makes a file's content, or a directory's entries, durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Base(path), err)
	}
	return nil
}

// readBlob returns a small blob after checking its digest.
func (s *Store) readBlob(digest string) ([]byte, error) {
	if err := checkDigest(digest); err != nil {
		return nil, corrupt("read blob", digest, "%w", err)
	}
	f, err := os.Open(s.blobPath(digest))
	if err != nil {
		return nil, missing("read blob", digest, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return nil, failure("read blob", digest, err)
	}
	if len(b) > maxJSON {
		return nil, corrupt("read blob", digest, "larger than %d bytes", maxJSON)
	}
	if digestOf(b) != digest {
		return nil, corrupt("read blob", digest, "its content has another digest")
	}
	return b, nil
}

// parseManifest reads the manifest of a snapshot and checks its structure.
func parseManifest(b []byte, id string) (*v1.Manifest, error) {
	var m v1.Manifest
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&m); err != nil {
		return nil, corrupt("read manifest", id, "%w", err)
	}
	if m.ArtifactType != snapshot.ArtifactType || m.Config.MediaType != snapshot.MediaConfig {
		return nil, incompatible("read manifest", id, "", "it is not a snapshot but %q", m.ArtifactType)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := checkDigest(string(d.Digest)); err != nil {
			return nil, corrupt("read manifest", id, "%w", err)
		}
		if d.Size < 0 {
			return nil, corrupt("read manifest", id, "blob %s has a negative size", d.Digest)
		}
	}
	return &m, nil
}

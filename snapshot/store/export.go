package store

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Export writes the snapshot as an OCI image layout in a tar, with everything it needs: when it stands on a directory
// of this host, that is packed as one more base layer, and the exported config names the layer in its place. The
// exported snapshot then has another id.
func (s *Store) Export(ctx context.Context, id string, w io.Writer) error {
	sn, err := s.Get(id)
	if err != nil {
		return err
	}
	e, err := s.newLease()
	if err != nil {
		return failure("export", id, err)
	}
	defer e.Close()
	x := &export{s: s, extra: make(map[string]string)}
	if err := x.prepare(ctx, e, sn); err != nil {
		return failure("export", snapshot.ShortID(id), err)
	}
	return failure("export", snapshot.ShortID(id), x.write(ctx, w, sn))
}

// export is an archive in the making.
type export struct {
	s        *Store
	config   []byte
	manifest []byte
	m        *v1.Manifest
	extra    map[string]string // digest -> path of blobs that the store does not have
}

// prepare finds out what the manifest of the archive is.
func (x *export) prepare(ctx context.Context, e *lease, sn *snapshot.Snapshot) error {
	m, _, err := x.s.readManifest(sn.ID)
	if err != nil {
		return err
	}
	x.m = m
	if sn.Config.Base.Dir == "" {
		if x.manifest, err = x.s.readBlob(sn.ID); err != nil {
			return err
		}
		x.config, err = x.s.readBlob(string(m.Config.Digest))
		return err
	}
	return x.packBase(ctx, e, sn)
}

// packBase makes a layer of the directory that the snapshot stands on, and a config and a manifest that say so.
func (x *export) packBase(ctx context.Context, e *lease, sn *snapshot.Snapshot) error {
	if err := checkBaseDir(sn.Config.Base.Dir); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(ctx, w, sn.Config.Base.Dir, tarFormat{packed: true})) }()
	b, err := e.stage(r)
	r.CloseWithError(err)
	if err != nil {
		return err
	}
	x.extra[b.digest] = b.path
	cfg := sn.Config
	cfg.Base = snapshot.Base{Layers: append([]string{b.digest}, cfg.Base.Layers...)}
	if x.config, err = json.Marshal(cfg); err != nil {
		return err
	}
	layer := snapshot.Layer{Digest: b.digest, MediaType: v1.MediaTypeImageLayer, Size: b.size, Role: snapshot.RoleBase}
	x.m.Layers = slices.Insert(x.m.Layers, 0, descriptorOf(layer))
	x.m.Config.Digest, x.m.Config.Size = digest.FromBytes(x.config), int64(len(x.config))
	x.manifest, err = json.Marshal(x.m)
	return err
}

// write writes the archive: what says what it is comes first, the blobs after it.
func (x *export) write(ctx context.Context, w io.Writer, sn *snapshot.Snapshot) error {
	tw := tar.NewWriter(w)
	layout, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	index := emptyIndex()
	id := digestOf(x.manifest)
	names := sn.Names
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		put(index, entry(name, id, int64(len(x.manifest))))
	}
	list, err := json.Marshal(index)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{fileLayout, layout}, {fileIndex, list}, {blobName(id), x.manifest}, {blobName(digestOf(x.config)), x.config}} {
		if err := tw.WriteHeader(fileHeader(f.name, int64(len(f.content)))); err != nil {
			return err
		}
		if _, err := tw.Write(f.content); err != nil {
			return err
		}
	}
	written := make(map[string]bool)
	for _, d := range x.m.Layers {
		if written[string(d.Digest)] {
			continue
		}
		written[string(d.Digest)] = true
		if err := x.blob(ctx, tw, d, blobName(string(d.Digest))); err != nil {
			return err
		}
	}
	return tw.Close()
}

func blobName(digest string) string { return dirBlobs + "/" + hexOf(digest) }

// blob copies a blob into the archive and fails when it is damaged.
func (x *export) blob(ctx context.Context, tw *tar.Writer, d v1.Descriptor, name string) error {
	if err := tw.WriteHeader(fileHeader(name, d.Size)); err != nil {
		return err
	}
	if path, ok := x.extra[string(d.Digest)]; ok {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(tw, contextReader{ctx, f})
		return err
	}
	if err := x.s.present(d); err != nil {
		return err
	}
	return x.s.checked(string(d.Digest), func(r io.Reader) error {
		_, err := io.CopyN(tw, contextReader{ctx, r}, d.Size)
		if errors.Is(err, io.EOF) {
			return corrupt("export", string(d.Digest), "the blob is shorter than %d bytes", d.Size)
		}
		return err
	})
}

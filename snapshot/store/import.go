package store

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Import reads an archive that Export wrote, here or elsewhere, plain or compressed, and publishes its snapshot under
// the name, or, when that is empty, under the first name that the archive has for it. Nothing becomes visible unless
// every blob has its digest and the whole makes sense: KindCorrupt names the entry that does not. What is no archive at
// all is KindInvalid, a snapshot of another architecture KindIncompatible.
func (s *Store) Import(ctx context.Context, r io.Reader, name string, accept func(snapshot.Config) error) (*snapshot.Snapshot, error) {
	t, err := s.Begin()
	if err != nil {
		return nil, err
	}
	defer t.Abort()
	a := &archiveIn{t: t, accept: accept, blobs: make(map[string]*staged)}
	if err := readArchive(ctx, r, a.entry); err != nil {
		return nil, err
	}
	id, named, err := a.choose()
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = named
	}
	return a.publish(ctx, id, name)
}

// archiveIn is an archive that is being read. Its entries never become paths: blobs are staged under names of ours.
type archiveIn struct {
	t             *Txn
	accept        func(snapshot.Config) error
	layout, index []byte
	blobs         map[string]*staged // by digest
}

func (a *archiveIn) entry(h *tar.Header, name string, r io.Reader) (err error) {
	hex, isBlob := strings.CutPrefix(name, dirBlobs+"/")
	switch {
	case h.Typeflag != tar.TypeReg:
		return errStranger
	case name == fileLayout:
		a.layout, err = readSmall(r, h.Size)
		return err
	case name == fileIndex:
		a.index, err = readSmall(r, h.Size)
		return err
	case !isBlob || checkDigest(digestPrefix+hex) != nil:
		return errStranger
	}
	b, err := a.t.e.stage(r)
	if err != nil {
		return err
	}
	if b.digest != digestPrefix+hex {
		return fmt.Errorf("its content has the digest %s", b.digest)
	}
	if a.blobs[b.digest] != nil {
		return os.Remove(b.path)
	}
	a.blobs[b.digest] = b
	return nil
}

// choose returns the one snapshot of the archive, and its first name.
func (a *archiveIn) choose() (id, name string, err error) {
	if a.layout == nil || a.index == nil {
		return "", "", &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "import", On: "the archive",
			Err: errors.New("it has no oci-layout and index.json"), Hint: "is it an archive of `snapd-ctr snapshots export`, and all of it?"}
	}
	if err := checkLayout(a.layout, "the archive"); err != nil {
		return "", "", err
	}
	var x v1.Index
	if err := json.Unmarshal(a.index, &x); err != nil {
		return "", "", archiveError(fileIndex, err)
	}
	for _, d := range x.Manifests {
		if !isOurs(d) {
			continue
		}
		if id != "" && string(d.Digest) != id {
			return "", "", invalid("import", "the archive", "export one snapshot at a time", "it has more than one snapshot")
		}
		if id == "" {
			name = nameOf(d)
		}
		id = string(d.Digest)
	}
	if id == "" {
		return "", "", incompatible("import", "the archive", "to use an OCI image, run it: `snapd-ctr run --image FILE`", "it has no snapshot")
	}
	return id, name, nil
}

// small returns the content of a staged blob.
func (a *archiveIn) small(digest string) ([]byte, error) {
	b, ok := a.blobs[digest]
	if !ok {
		return nil, corrupt("import", digest, "the blob is missing from the archive")
	}
	if b.size > maxJSON {
		return nil, corrupt("import", digest, "it has %d bytes, more than %d", b.size, maxJSON)
	}
	content, err := os.ReadFile(b.path)
	return content, failure("import", digest, err)
}

// publish checks the snapshot, moves its blobs into the store and makes it visible.
func (a *archiveIn) publish(ctx context.Context, id, name string) (*snapshot.Snapshot, error) {
	raw, err := a.small(id)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(raw, id)
	if err != nil {
		return nil, err
	}
	config, err := a.small(string(m.Config.Digest))
	if err != nil {
		return nil, err
	}
	var cfg snapshot.Config
	if err := decodeConfig(config, id, &cfg); err != nil {
		return nil, err
	}
	if err := checkForeign(id, cfg); err != nil {
		return nil, err
	}
	if a.accept != nil {
		if err := a.accept(cfg); err != nil {
			return nil, err
		}
	}
	if err := checkStructure(id, cfg, m); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		b, ok := a.blobs[string(d.Digest)]
		switch {
		case !ok:
			return nil, corrupt("import", string(d.Digest), "the blob is missing from the archive")
		case b.size != d.Size:
			return nil, corrupt("import", string(d.Digest), "it has %d bytes and should have %d", b.size, d.Size)
		}
		if err := checkTarLayer(ctx, b.path, layerOf(d)); err != nil {
			return nil, err
		}
	}
	for _, d := range m.Layers {
		if err := a.t.s.adopt(a.t.e, a.blobs[string(d.Digest)]); err != nil {
			return nil, failure("import", string(d.Digest), err)
		}
	}
	return a.t.publish(name, config, raw, m, false)
}

// checkForeign refuses a snapshot that cannot be used on this host.
func checkForeign(id string, cfg snapshot.Config) error {
	if cfg.Architecture != runtime.GOARCH {
		return incompatible("import", snapshot.ShortID(id), "memory of one architecture cannot run on another",
			"it was taken on %q and this host is %s", cfg.Architecture, runtime.GOARCH)
	}
	if cfg.Base.Dir != "" {
		return incompatible("import", snapshot.ShortID(id), "export it again on the host it comes from",
			"it stands on the directory %s of another host", cfg.Base.Dir)
	}
	return nil
}

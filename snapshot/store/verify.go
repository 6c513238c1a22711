package store

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// pageSize is that of the memory in pages files. CRIU writes whole pages.
const pageSize = 4096

// Verify reads every blob of a snapshot and checks it against its digest and its size, and the manifest for sense. The
// error is of KindCorrupt and names the blob.
func (s *Store) Verify(ctx context.Context, id string) error {
	m, _, err := s.readManifest(id)
	if err != nil {
		return err
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := s.verifyBlob(ctx, d); err != nil {
			return err
		}
	}
	b, err := s.readBlob(string(m.Config.Digest))
	if err != nil {
		return err
	}
	var cfg snapshot.Config
	if err := decodeConfig(b, id, &cfg); err != nil {
		return err
	}
	if err := checkStructure(id, cfg, m); err != nil {
		return err
	}
	for _, d := range m.Layers {
		if err := checkTarLayer(ctx, s.blobPath(string(d.Digest)), layerOf(d)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) verifyBlob(ctx context.Context, d v1.Descriptor) error {
	if err := s.present(d); err != nil {
		return err
	}
	f, err := os.Open(s.blobPath(string(d.Digest)))
	if err != nil {
		return missing("verify", string(d.Digest), err)
	}
	defer f.Close()
	got, _, err := digestReader(contextReader{ctx, f})
	if err != nil {
		return failure("verify", string(d.Digest), err)
	}
	if got != string(d.Digest) {
		return corrupt("verify", string(d.Digest), "its content has the digest %s", got)
	}
	return nil
}

// checkStructure says whether a manifest and its config fit together and make a snapshot.
func checkStructure(id string, cfg snapshot.Config, m *v1.Manifest) error {
	images := 0
	base := make(map[string]bool)
	contents := make(map[string]string)
	pages := make(map[string]bool)
	for _, d := range m.Layers {
		l := layerOf(d)
		switch l.Role {
		case snapshot.RoleBase:
			base[l.Digest] = true
		case snapshot.RoleRootfs:
		case snapshot.RoleImages:
			images++
		case snapshot.RolePages:
			if !isPages(l.Name) || filepath.Base(l.Name) != l.Name || pages[l.Name] {
				return corrupt("check manifest", id, "%q cannot be the name of a pages file here", l.Name)
			}
			if l.Size%pageSize != 0 {
				return corrupt("check manifest", l.Digest, "%s has %d bytes, which is not a number of pages", l.Name, l.Size)
			}
			pages[l.Name] = true
		case snapshot.RoleContent:
			if _, ok := contents[l.Name]; ok || l.Name == "" {
				return corrupt("check manifest", id, "%q cannot be the key of a mount here", l.Name)
			}
			contents[l.Name] = l.Digest
		default:
			return corrupt("check manifest", l.Digest, "it has the unknown role %q", l.Role)
		}
	}
	if images != 1 {
		return corrupt("check manifest", id, "it has %d blobs of CRIU images and should have one", images)
	}
	for _, d := range cfg.Base.Layers {
		if !base[d] {
			return corrupt("check manifest", id, "base layer %s is not in the manifest", d)
		}
	}
	for _, mt := range cfg.Mounts {
		if mt.Content != "" && contents[mt.Key] != mt.Content {
			return corrupt("check manifest", id, "the content of mount %s (%s) is not in the manifest", mt.Path, mt.Key)
		}
	}
	return nil
}

// checkTarLayer reads the headers of a layer that is a tar, and refuses what Unpack would refuse.
func checkTarLayer(ctx context.Context, file string, l snapshot.Layer) error {
	if l.Role == snapshot.RolePages {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return missing("verify", l.Digest, err)
	}
	defer f.Close()
	if l.Role == snapshot.RoleImages {
		return eachImage(contextReader{ctx, f}, func(string, int64, io.Reader) error { return nil })
	}
	r, err := decompress(contextReader{ctx, f})
	if err != nil {
		return corrupt("verify", l.Digest, "%w", err)
	}
	defer r.Close()
	u := unpacking{overlay: l.Role != snapshot.RoleContent, at: "/"}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return corrupt("verify", l.Digest, "%w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader || l.Role == snapshot.RoleContent && isDevice(h) {
			continue // whether a device may be there depends on the mount
		}
		if err := u.check(h); err != nil {
			return corrupt("verify", l.Digest, "entry %s: %w", fmt.Sprintf("%q", h.Name), err)
		}
	}
}

func isDevice(h *tar.Header) bool { return h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock }

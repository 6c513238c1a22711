package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Unpacked is what a clone needs of a snapshot, as directories. They are shared by all clones and read-only by
// agreement.
type Unpacked struct {
	Config   string            // file with the snapshot's config
	Images   string            // for CRIU
	Lower    []string          // lower directories of the overlay, topmost first
	Contents map[string]string // mount key -> directory with the captured content
}

// recipe is what the cache of a snapshot was made of. It lies in the cache as recipe.json; a cache is complete when
// it is there, because the whole directory appears by one rename.
type recipe struct {
	Layers   []string          `json:"layers"` // topmost first
	Dir      string            `json:"dir,omitempty"`
	Contents map[string]string `json:"contents,omitempty"` // mount key -> digest
	Pages    map[string]int64  `json:"pages,omitempty"`    // name -> size
}

const (
	fileRecipe = "recipe.json"
	dirImages  = "images"
)

// Unpack makes the directories that clones of the snapshot share, and returns where they are. The first call costs
// reading all its blobs, each of which is checked against its digest; later calls cost a few looks at the file system.
// CRIU's pages files are hard links to the blobs.
func (s *Store) Unpack(ctx context.Context, id string) (*Unpacked, error) {
	if err := checkDigest(id); err != nil {
		return nil, invalid("unpack", id, "", "%w", err)
	}
	if u, err := s.unpacked(id); u != nil || err != nil {
		return u, err
	}
	m, _, err := s.readManifest(id)
	if err != nil {
		return nil, err
	}
	b, err := s.readBlob(string(m.Config.Digest))
	if err != nil {
		return nil, err
	}
	var cfg snapshot.Config
	if err := decodeConfig(b, id, &cfg); err != nil {
		return nil, err
	}
	var layers []snapshot.Layer
	for _, d := range m.Layers {
		layers = append(layers, layerOf(d))
	}
	rc, err := s.unpackParts(ctx, cfg, layers)
	if err != nil {
		return nil, failure("unpack", snapshot.ShortID(id), err)
	}
	err = s.once(ctx, dirCache, id, func(tmp string) error { return s.unpackImages(ctx, tmp, rc, layers) })
	if err != nil {
		return nil, failure("unpack", snapshot.ShortID(id), err)
	}
	u, err := s.unpacked(id)
	if u == nil && err == nil {
		err = corrupt("unpack", snapshot.ShortID(id), "its cache vanished while it was made")
	}
	return u, err
}

// unpacked returns what the cache of a snapshot has, nil when it is missing or not whole.
func (s *Store) unpacked(id string) (*Unpacked, error) {
	dir := s.path(dirCache, hexOf(id))
	b, err := os.ReadFile(filepath.Join(dir, fileRecipe))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, failure("unpack", snapshot.ShortID(id), err)
	}
	var rc recipe
	if err := json.Unmarshal(b, &rc); err != nil {
		return nil, corrupt("unpack", filepath.Join(dir, fileRecipe), "%w", err)
	}
	// A cache outlives a blob that was found damaged and taken away; what it holds is then as bad.
	m, _, err := s.readManifest(id)
	if err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if err := s.present(d); err != nil {
			return nil, err
		}
	}
	u := &Unpacked{Config: s.blobPath(string(m.Config.Digest)), Images: filepath.Join(dir, dirImages), Contents: make(map[string]string)}
	for _, d := range rc.Layers {
		u.Lower = append(u.Lower, s.path(dirLayers, hexOf(d)))
	}
	if rc.Dir != "" {
		if err := checkBaseDir(rc.Dir); err != nil {
			return nil, err
		}
		u.Lower = append(u.Lower, rc.Dir)
	}
	need := slices.Clone(u.Lower)
	for key, d := range rc.Contents {
		u.Contents[key] = s.path(dirContents, hexOf(d))
		need = append(need, u.Contents[key])
	}
	for _, d := range need {
		if _, err := os.Stat(d); err != nil {
			return nil, nil // made again
		}
	}
	for name, size := range rc.Pages {
		st, err := os.Stat(filepath.Join(u.Images, name))
		if err != nil || st.Size() != size {
			return nil, corrupt("unpack", snapshot.ShortID(id), "%s is not as large as it was", name)
		}
	}
	return u, nil
}

func checkBaseDir(dir string) error {
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = errors.New("it is not a directory")
	}
	if err != nil {
		return &snapshot.Error{Kind: snapshot.KindIncompatible, Op: "use base", On: dir, Err: err,
			Hint: "the container was run on this directory and needs it, unchanged, at the same place"}
	}
	return nil
}

// unpackParts unpacks the layers and the contents of a snapshot, which it may share with others.
func (s *Store) unpackParts(ctx context.Context, cfg snapshot.Config, layers []snapshot.Layer) (*recipe, error) {
	rc := &recipe{Dir: cfg.Base.Dir, Contents: make(map[string]string), Pages: make(map[string]int64)}
	at := make(map[string]string)
	for _, m := range cfg.Mounts {
		at[m.Key] = m.Path
	}
	rc.Layers = slices.Clone(cfg.Base.Layers)
	for _, l := range layers {
		switch l.Role {
		case snapshot.RoleRootfs:
			rc.Layers = append(rc.Layers, l.Digest)
		case snapshot.RolePages:
			rc.Pages[l.Name] = l.Size
		case snapshot.RoleContent:
			rc.Contents[l.Name] = l.Digest
			if err := s.unpackTar(ctx, dirContents, l.Digest, unpacking{at: at[l.Name]}); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range rc.Layers {
		if err := s.unpackTar(ctx, dirLayers, d, unpacking{overlay: true, at: "/"}); err != nil {
			return nil, err
		}
	}
	rc.Layers = topmost(rc.Layers)
	return rc, nil
}

// topmost returns layers that are listed bottom first with the topmost first, each of them once: a layer that comes
// again hides all of what lies below of itself, and overlayfs takes no directory twice.
func topmost(layers []string) []string {
	var out []string
	for _, d := range slices.Backward(layers) {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// LayerDirs unpacks the layers of a base, where that has not been done, and returns their directories, topmost first;
// base.Dir is the last.
func (s *Store) LayerDirs(ctx context.Context, base snapshot.Base) ([]string, error) {
	var dirs []string
	for _, d := range topmost(base.Layers) {
		if err := checkDigest(d); err != nil {
			return nil, invalid("unpack layer", d, "", "%w", err)
		}
		if err := s.unpackTar(ctx, dirLayers, d, unpacking{overlay: true, at: "/"}); err != nil {
			return nil, failure("unpack layer", snapshot.ShortID(d), err)
		}
		dirs = append(dirs, s.path(dirLayers, hexOf(d)))
	}
	if base.Dir != "" {
		if err := checkBaseDir(base.Dir); err != nil {
			return nil, err
		}
		dirs = append(dirs, base.Dir)
	}
	return dirs, nil
}

// unpackTar unpacks a tar blob into kind/<hex>, once.
func (s *Store) unpackTar(ctx context.Context, kind, digest string, u unpacking) error {
	if err := checkDigest(digest); err != nil {
		return corrupt("unpack", digest, "%w", err)
	}
	return s.once(ctx, kind, digest, func(tmp string) error {
		return s.checked(digest, func(r io.Reader) error { return applyTar(ctx, tmp, r, u) })
	})
}

// once makes the directory kind/<hex> with fill, unless it is there. Of several that want it one works and the others
// wait. What fill makes appears by a rename; when fill fails, nothing appears.
func (s *Store) once(ctx context.Context, kind, digest string, fill func(tmp string) error) error {
	target := s.path(kind, hexOf(digest))
	if _, err := os.Lstat(target); err == nil {
		return nil
	}
	l, err := s.lockDigest(ctx, digest)
	if err != nil {
		return err
	}
	defer l.Close()
	if _, err := os.Lstat(target); err == nil {
		return nil
	}
	e, err := s.newLease()
	if err != nil {
		return err
	}
	defer e.Close()
	tmp := filepath.Join(e.dir, "unpacked")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	// A host that crashes must not come up with a cache whose files have lost their content.
	if err := sys.SyncFS(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, target); err != nil {
		return err
	}
	return syncDir(s.path(kind))
}

// checked gives read the content of a blob, and fails when that does not have the blob's digest. read must consume
// all of it.
func (s *Store) checked(digest string, read func(io.Reader) error) error {
	f, err := os.Open(s.blobPath(digest))
	if err != nil {
		return missing("read blob", digest, err)
	}
	defer f.Close()
	h := &hashingReader{r: f, h: sha256.New()}
	err = read(h)
	// Of two complaints about one blob, its digest is the one that explains the other.
	if _, rest := io.Copy(io.Discard, h); rest != nil {
		return failure("read blob", digest, errors.Join(err, rest))
	}
	if digestPrefix+hex.EncodeToString(h.h.Sum(nil)) != digest {
		return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "read blob", On: digest,
			Err: errors.New("its content has another digest"), Hint: "`snapd-ctr fsck` shows what else is damaged"}
	}
	return err
}

type hashingReader struct {
	r io.Reader
	h hash.Hash
}

func (r *hashingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.h.Write(p[:n])
	return n, err
}

// unpackImages fills the cache of one snapshot: CRIU's images, and the recipe.
func (s *Store) unpackImages(ctx context.Context, tmp string, rc *recipe, layers []snapshot.Layer) error {
	images := filepath.Join(tmp, dirImages)
	if err := os.Mkdir(images, 0o700); err != nil {
		return err
	}
	for _, l := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		switch l.Role {
		case snapshot.RoleImages:
			err = s.checked(l.Digest, func(r io.Reader) error { return extractImages(images, r) })
		case snapshot.RolePages:
			err = s.linkPages(images, l)
		}
		if err != nil {
			return err
		}
	}
	b, err := json.Marshal(rc)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tmp, fileRecipe), b, 0o600)
}

func extractImages(dir string, r io.Reader) error {
	return eachImage(r, func(name string, _ int64, content io.Reader) error {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	})
}

// linkPages links a pages blob into an images directory, after a look at every byte of it.
func (s *Store) linkPages(images string, l snapshot.Layer) error {
	if !isPages(l.Name) || filepath.Base(l.Name) != l.Name {
		return corrupt("unpack", l.Name, "not the name of a pages file")
	}
	d, size, err := digestFile(s.blobPath(l.Digest))
	if err != nil {
		return missing("unpack", l.Digest, err)
	}
	if d != l.Digest || size != l.Size {
		return corrupt("unpack", l.Digest, "the blob of %s is damaged", l.Name)
	}
	return os.Link(s.blobPath(l.Digest), filepath.Join(images, l.Name))
}

package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// trees compares every unpacked layer and content with its blob, by unpacking the blob again beside it.
func (c *checker) trees(ctx context.Context) error {
	for _, kind := range [...]string{dirLayers, dirContents} {
		entries, err := os.ReadDir(c.s.path(kind))
		if err != nil {
			return err
		}
		for _, e := range entries {
			where := filepath.Join(kind, e.Name())
			d := digestPrefix + e.Name()
			if checkDigest(d) != nil {
				if err := c.stale(where, "not a cache"); err != nil {
					return err
				}
				continue
			}
			if !c.has(d) || c.damaged[d] {
				continue // without the blob nothing can be said; the collector deletes what nobody needs
			}
			same, err := c.sameTree(ctx, where, d, kind == dirLayers)
			if err != nil {
				return err
			}
			if !same {
				if err := c.stale(where, "its files are not those of the blob"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *checker) stale(where, what string) error {
	return c.found(where, what, remedyRepair, func() error { return c.quarantine(where) })
}

func (c *checker) sameTree(ctx context.Context, where, digest string, overlay bool) (bool, error) {
	tmp := filepath.Join(c.e.dir, "again")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	u := unpacking{overlay: overlay, at: "/dev"} // what the mount allows was decided when it was unpacked
	err := c.s.checked(digest, func(r io.Reader) error { return applyTar(ctx, tmp, r, u) })
	if err != nil {
		return false, err
	}
	a, err := treeDigest(ctx, tmp, overlay)
	if err != nil {
		return false, err
	}
	b, err := treeDigest(ctx, c.s.path(where), overlay)
	return a == b, err
}

// treeDigest sums up a directory. Times are left out: those of directories that a layer does not list are the time of
// unpacking.
func treeDigest(ctx context.Context, dir string, overlay bool) (string, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(ctx, w, dir, tarFormat{overlay: overlay, timeless: true})) }()
	d, _, err := digestReader(r)
	r.CloseWithError(err)
	return d, err
}

// caches compares CRIU's images in the caches with the blobs.
func (c *checker) caches(ctx context.Context) error {
	entries, err := os.ReadDir(c.s.path(dirCache))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		where := filepath.Join(dirCache, e.Name())
		id := digestPrefix + e.Name()
		if checkDigest(id) != nil {
			if err := c.stale(where, "not a cache"); err != nil {
				return err
			}
			continue
		}
		if !c.has(id) || c.damaged[id] {
			continue
		}
		if err := c.sameCache(where, id); err != nil {
			if err := c.stale(where, err.Error()); err != nil {
				return err
			}
		}
	}
	sortProblems(c.problems)
	return nil
}

// sameCache returns what is wrong with the cache of a snapshot.
func (c *checker) sameCache(where, id string) error {
	dir := c.s.path(where)
	b, err := os.ReadFile(filepath.Join(dir, fileRecipe))
	if err != nil {
		return errors.New("it has no recipe")
	}
	var rc recipe
	if err := json.Unmarshal(b, &rc); err != nil {
		return fmt.Errorf("its recipe: %w", err)
	}
	m, _, err := c.s.readManifest(id)
	if err != nil {
		return err
	}
	expected := 0
	for _, d := range m.Layers {
		l := layerOf(d)
		switch l.Role {
		case snapshot.RolePages:
			expected++
			if err := c.linked(filepath.Join(dir, dirImages, l.Name), l); err != nil {
				return err
			}
		case snapshot.RoleImages:
			n, err := c.sameImages(filepath.Join(dir, dirImages), l.Digest)
			if err != nil {
				return err
			}
			expected += n
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, dirImages))
	if err != nil {
		return err
	}
	if len(entries) != expected {
		return fmt.Errorf("it has %d images and should have %d", len(entries), expected)
	}
	return nil
}

// linked says whether a pages file is still the blob itself.
func (c *checker) linked(path string, l snapshot.Layer) error {
	a, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("%s is missing", l.Name)
	}
	b, err := os.Stat(c.s.blobPath(l.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // reported already
	}
	if err != nil {
		return err
	}
	if !os.SameFile(a, b) {
		return fmt.Errorf("%s is no link to its blob any more", l.Name)
	}
	return nil
}

func (c *checker) sameImages(dir, digest string) (n int, err error) {
	if !c.has(digest) || c.damaged[digest] {
		return 0, nil
	}
	err = c.s.checked(digest, func(r io.Reader) error {
		return eachImage(r, func(name string, _ int64, content io.Reader) error {
			n++
			want, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return fmt.Errorf("%s is missing", name)
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("%s is not what the blob says", name)
			}
			return nil
		})
	})
	return n, err
}

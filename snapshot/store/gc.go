package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// quarantineDays is how long GC leaves alone what Check has put into quarantine.
const quarantineDays = 30

// GC deletes blobs and caches that nothing needs: no entry of the index, no pinned image, no running transaction, no
// snapshot of which inUse says that containers stand on it, and none of layersInUse. What lies in quarantine for longer
// than 30 days goes too, unless such containers may still have it mounted; it counts as a blob or a cache. With dryRun it only says what it
// would delete. paths are relative to the store.
func (s *Store) GC(inUse func(id string) bool, layersInUse []string, dryRun bool) (blobs, caches int, bytes int64, paths []string, err error) {
	l, err := s.lockStore(true)
	if err != nil {
		return 0, 0, 0, nil, failure("gc", s.dir, err)
	}
	defer l.Close()
	live, dead, err := s.reachable(inUse, layersInUse)
	if err != nil {
		return 0, 0, 0, nil, failure("gc", s.dir, err)
	}
	for _, kind := range [...]string{dirBlobs, dirCache, dirLayers, dirContents} {
		entries, err := os.ReadDir(s.path(kind))
		if err != nil {
			return blobs, caches, bytes, paths, failure("gc", s.dir, err)
		}
		for _, e := range entries {
			if live[digestPrefix+e.Name()] {
				continue
			}
			if kind == dirBlobs {
				blobs++
			} else {
				caches++
			}
			dead = append(dead, filepath.Join(kind, e.Name()))
		}
	}
	old, err := s.oldQuarantine(inUse, layersInUse)
	if err != nil {
		return blobs, caches, bytes, paths, failure("gc", s.dir, err)
	}
	for _, e := range old {
		if e.IsDir() {
			caches++
		} else {
			blobs++
		}
		dead = append(dead, filepath.Join(dirDamaged, e.Name()))
	}
	for _, p := range dead {
		if _, err := os.Lstat(s.path(p)); errors.Is(err, fs.ErrNotExist) {
			continue // a transaction that ended just now
		}
		n, err := diskUse(s.path(p), strings.HasPrefix(p, dirCache+"/"))
		if err == nil && !dryRun {
			err = os.RemoveAll(s.path(p))
		}
		if err != nil {
			return blobs, caches, bytes, paths, failure("gc", p, err)
		}
		bytes += n
		paths = append(paths, p)
	}
	return blobs, caches, bytes, paths, nil
}

// reachable returns every digest that something needs, and the staging entries of dead processes. A manifest that
// cannot be read stops it: what it needs cannot be known.
func (s *Store) reachable(inUse func(id string) bool, layersInUse []string) (live map[string]bool, dead []string, err error) {
	live, dead, err = s.leases()
	if err != nil {
		return nil, nil, err
	}
	for _, d := range layersInUse {
		live[d] = true
	}
	pins, err := s.readPins()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range pins {
		for _, d := range p.Base.Layers {
			live[d] = true
		}
	}
	x, err := s.readIndex()
	if err != nil {
		return nil, nil, err
	}
	roots := x.Manifests
	cached, err := os.ReadDir(s.path(dirCache))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range cached {
		if id := digestPrefix + e.Name(); checkDigest(id) == nil && inUse != nil && inUse(id) {
			roots = append(roots, entry("", id, 0))
		}
	}
	return live, dead, s.markAll(live, roots)
}

// oldQuarantine returns the entries of the quarantine that can go. Containers that have run since before a repair may
// have a cache or a layer mounted that lies there now: of a snapshot in use, all of it stays.
func (s *Store) oldQuarantine(inUse func(id string) bool, layersInUse []string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(s.path(dirDamaged))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	blobs, err := os.ReadDir(s.path(dirBlobs)) // manifests among them
	if err != nil {
		return nil, err
	}
	mounted := make(map[string]bool)
	for _, d := range layersInUse {
		mounted[d] = true
	}
	for _, e := range slices.Concat(entries, blobs) {
		id := digestIn(e)
		if inUse == nil || mounted[id] || checkDigest(id) != nil || !inUse(id) {
			continue
		}
		mounted[id] = true
		m, _, err := s.readManifest(id)
		if err != nil {
			return nil, nil // what else is mounted cannot be known
		}
		for _, d := range m.Layers {
			mounted[string(d.Digest)] = true
		}
	}
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return mounted[digestIn(e)] || time.Since(quarantined(e)) < quarantineDays*24*time.Hour
	}), nil
}

// digestIn returns the digest that the name of a blob, a cache or one of these in quarantine stands for.
func digestIn(e fs.DirEntry) string {
	hex, _, _ := strings.Cut(e.Name(), ".")
	return digestPrefix + hex
}

// quarantined returns the day that an entry of the quarantine has in its name; of one without, when it was changed.
func quarantined(e fs.DirEntry) time.Time {
	for part := range strings.SplitSeq(e.Name(), ".") {
		if day, err := time.Parse(time.DateOnly, part); err == nil {
			return day
		}
	}
	if st, err := e.Info(); err == nil {
		return st.ModTime()
	}
	return time.Now()
}

// markAll marks descriptors and what they refer to.
func (s *Store) markAll(live map[string]bool, ds []v1.Descriptor) error {
	for _, d := range ds {
		if err := checkDigest(string(d.Digest)); err != nil || live[string(d.Digest)] && !isManifest(d) {
			continue // another algorithm's blob cannot be ours
		}
		live[string(d.Digest)] = true
		if !isManifest(d) {
			continue
		}
		refs, err := s.references(d)
		if err != nil {
			return err
		}
		if err := s.markAll(live, refs); err != nil {
			return err
		}
	}
	return nil
}

func isManifest(d v1.Descriptor) bool {
	return strings.Contains(d.MediaType, "manifest") || strings.Contains(d.MediaType, "image.index")
}

// diskUse returns what deleting a blob or a cache frees. The pages in a cache are the blobs themselves and count there.
func diskUse(path string, cache bool) (int64, error) {
	var sum int64
	err := filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || cache && isPages(e.Name()) {
			return err
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		sum += st.Size()
		return nil
	})
	return sum, err
}

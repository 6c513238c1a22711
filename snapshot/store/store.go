// Package store keeps snapshots on disk, content-addressed, as an OCI image layout that any OCI tool can read.
//
// A blob is a file named by the digest of its content. A manifest is a blob that lists a snapshot's blobs, and its
// digest is the snapshot's id. The index, one file, maps names to manifests: a snapshot exists when the index says so
// and not before, so the last step of a publication, the renaming of a new index over the old one, is the only one
// that anybody can see.
//
//	Begin ──► AddFile, AddImages, AddReader ──► Publish        blobs first, then config, manifest, index
//	  │                                            │
//	  └────────────── Abort ◄──────────────────────┘           a process that dies aborts by dying
//
// Unpack makes what CRIU and overlayfs need from the blobs. What it makes is a cache, shared by all clones, and can be
// deleted at any time at which no container uses it. docs/store-format.md describes every file.
//
// A store is used by many processes at once. Each mutation takes the store's lock (flock) for a short time; a
// transaction is protected from the garbage collector by a lease, a locked file that lists the blobs it needs.
package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Store is a store on disk. It is safe for concurrent use, by goroutines and by processes.
type Store struct {
	dir string

	mu      sync.Mutex
	pending *lease // blobs of AddLayer that nothing names yet; nil until there are any
}

// The files and directories of a store.
const (
	fileLayout  = "oci-layout"
	fileIndex   = "index.json"
	filePins    = "images.json"
	fileLock    = "lock"        // flock: readers of the index need none
	fileKeys    = "unpack.lock" // one byte range for each thing that is being unpacked
	dirBlobs    = "blobs/sha256"
	dirStaging  = "staging"
	dirCache    = "cache"
	dirLayers   = "layers"
	dirContents = "contents"
	dirDamaged  = "quarantine"
)

// Open opens the store at dir, and creates it where there is none. A directory whose layout version is not ours is
// refused with KindIncompatible. Staging directories that dead processes left are deleted.
func Open(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, failure("open store", dir, err)
	}
	s := &Store{dir: abs}
	for _, d := range []string{".", dirBlobs, dirStaging, dirCache, dirLayers, dirContents} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, failure("open store", dir, err)
		}
	}
	if err := s.initLayout(); err != nil {
		return nil, err
	}
	if err := s.sweep(); err != nil {
		return nil, failure("open store", dir, err)
	}
	return s, nil
}

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// blobPath returns where the blob with a valid digest lies.
func (s *Store) blobPath(digest string) string { return s.path(dirBlobs, hexOf(digest)) }

const digestPrefix = "sha256:"

func hexOf(digest string) string { return strings.TrimPrefix(digest, digestPrefix) }

// checkDigest says whether s is a digest that this store can hold. Everything that becomes part of a path goes
// through it.
func checkDigest(s string) error {
	h, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(h) != 64 || strings.Trim(h, "0123456789abcdef") != "" {
		return fmt.Errorf("%q is not a sha256 digest", s)
	}
	return nil
}

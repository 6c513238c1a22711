package store_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// unpackAgain fails the test unless a further Unpack finds what the first one made, writes nothing to the store, and reads
// no blob but the manifest: that all others are as long as they were is enough.
func unpackAgain(t *testing.T, s *store.Store, id string, first *store.Unpacked) {
	t.Helper()
	manifest := strings.TrimPrefix(id, "sha256:")
	blobs := filepath.Join(s.Dir(), "blobs", "sha256")
	kept := t.TempDir()
	entries, err := os.ReadDir(blobs)
	must(t, err)
	for _, e := range entries {
		path, aside := filepath.Join(blobs, e.Name()), filepath.Join(kept, e.Name())
		if e.Name() == manifest {
			continue
		}
		info, err := e.Info()
		must(t, err)
		must(t, os.Rename(path, aside))
		must(t, os.WriteFile(path, nil, 0o600))
		must(t, os.Truncate(path, info.Size()))
	}
	before := changes(t, s.Dir())
	again, err := s.Unpack(t.Context(), id)
	if err != nil || !reflect.DeepEqual(first, again) {
		t.Errorf("a further Unpack returns %+v, %v; the first one returned %+v", again, err, first)
	}
	if after := changes(t, s.Dir()); !maps.Equal(before, after) {
		t.Errorf("a further Unpack changes the store from\n%v to\n%v", before, after)
	}
	for _, e := range entries {
		if e.Name() != manifest {
			must(t, os.Rename(filepath.Join(kept, e.Name()), filepath.Join(blobs, e.Name())))
		}
	}
}

// changes returns for everything below a directory which file it is and when it was last written or made another.
func changes(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		all[path] = fmt.Sprint(st.Ino, st.Size, st.Mtim, st.Ctim)
		return nil
	}))
	return all
}

package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestGCEmptiesTheQuarantine(t *testing.T) {
	s := openDamaged(t)
	sn := publish(t, s, "web", sample{seed: 1})
	u, err := s.Unpack(t.Context(), sn.ID)
	must(t, err)
	_, layer := blobOf(t, s, sn, snapshot.RoleRootfs)
	must(t, os.WriteFile(filepath.Join(u.Lower[0], "etc/own"), []byte("changed"), 0o644))
	must(t, os.Remove(filepath.Join(u.Images, "core-1.img")))
	stray := filepath.Join(s.Dir(), "blobs/sha256/notes")
	must(t, os.WriteFile(stray, []byte("12345"), 0o600))
	problems, err := s.Check(t.Context(), true)
	must(t, err)
	if len(problems) != 3 {
		t.Fatalf("check says %+v", problems)
	}
	lies := func() []string {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(s.Dir(), "quarantine"))
		must(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, strings.SplitN(e.Name(), ".", 2)[0])
		}
		slices.Sort(names)
		return names
	}
	all := []string{"notes", layer[7:], sn.ID[7:]}
	slices.Sort(all)
	collect := func(inUse bool, want ...string) {
		t.Helper()
		_, _, _, _, err := s.GC(func(id string) bool { return inUse && id == sn.ID }, nil, false)
		must(t, err)
		slices.Sort(want)
		if got := lies(); !slices.Equal(got, want) {
			t.Errorf("the quarantine holds %q, want %q", got, want)
		}
	}
	collect(false, all...)
	// A month later:
	today, then := time.Now().UTC(), time.Now().AddDate(0, 0, -40).Format(time.DateOnly)
	entries, err := os.ReadDir(filepath.Join(s.Dir(), "quarantine"))
	must(t, err)
	for _, e := range entries {
		name := strings.Replace(e.Name(), today.Format(time.DateOnly), then, 1)
		must(t, os.Rename(filepath.Join(s.Dir(), "quarantine", e.Name()), filepath.Join(s.Dir(), "quarantine", name)))
	}
	collect(true, layer[7:], sn.ID[7:])
	_, caches, _, paths, err := s.GC(nil, []string{layer}, true)
	must(t, err)
	if caches == 0 || !slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, "quarantine/"+sn.ID[7:]) }) {
		t.Errorf("it would delete %q", paths)
	}
	_, _, _, _, err = s.GC(nil, []string{layer}, false)
	must(t, err)
	if got := lies(); !slices.Equal(got, []string{layer[7:]}) {
		t.Errorf("with a container on the layer the quarantine holds %q", got)
	}
	collect(false)
	if _, err := os.Stat(stray); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

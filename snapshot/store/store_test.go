package store_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// open makes a store that must be sound when the test ends.
func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clean(t, dir) })
	return s
}

// clean fails the test when Check finds anything.
func clean(t testing.TB, dir string) {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Errorf("open for check: %v", err)
		return
	}
	problems, err := s.Check(context.WithoutCancel(t.Context()), false)
	if t.Failed() {
		return
	}
	if err != nil {
		t.Errorf("check: %v", err)
	}
	for _, p := range problems {
		t.Errorf("check: %s: %s", p.Where, p.What)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pages returns n pages that differ with the seed.
func pages(seed uint64, n int) string {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n*4096)
	_, _ = r.Read(b)
	return string(b)
}

// sample is a snapshot with everything that one can have.
type sample struct {
	seed uint64
	base snapshot.Base
}

func (p sample) publish(t testing.TB, s *store.Store, name string, replace bool) (*snapshot.Snapshot, error) {
	t.Helper()
	tx, err := s.Begin()
	if err != nil {
		return nil, err
	}
	defer tx.Abort()
	images := filepath.Join(tx.Dir(), "images")
	write(t, filepath.Join(images, "inventory.img"), "inventory")
	write(t, filepath.Join(images, "core-1.img"), "core "+string(rune('a'+p.seed%26)))
	write(t, filepath.Join(images, "pages-1.img"), pages(p.seed, 64))
	write(t, filepath.Join(images, "pages-2.img"), "")
	layers, err := tx.AddImages(images)
	if err != nil {
		return nil, err
	}
	upper := filepath.Join(tx.Dir(), "upper")
	write(t, filepath.Join(upper, "etc/own"), "own file of "+name)
	var b bytes.Buffer
	if err := store.WriteLayer(t.Context(), &b, upper); err != nil {
		return nil, err
	}
	rootfs, err := tx.AddReader(&b, "application/vnd.oci.image.layer.v1.tar", snapshot.RoleRootfs, "")
	if err != nil {
		return nil, err
	}
	shm := filepath.Join(tx.Dir(), "shm")
	write(t, filepath.Join(shm, "segment"), "shared memory")
	if err := store.WriteTree(t.Context(), &b, shm); err != nil {
		return nil, err
	}
	content, err := tx.AddReader(&b, snapshot.MediaContent, snapshot.RoleContent, "tmpfs:/dev/shm")
	if err != nil {
		return nil, err
	}
	return tx.Publish(name, p.config(content.Digest), append(layers, rootfs, content), replace)
}

func (p sample) config(content string) snapshot.Config {
	return snapshot.Config{Version: snapshot.ConfigVersion, Created: time.Unix(1700000000+int64(p.seed), 0).UTC(),
		Architecture: runtime.GOARCH, Kernel: "6.18.0", CRIU: "4.2.1", Args: []string{"/bin/server", "-v"}, Base: p.base,
		Source: snapshot.Source{Runtime: "own", ID: "0123456789abcdef0123456789abcdef", Name: "web", Hostname: "web"},
		Mounts: []snapshot.Mount{{Path: "/", FSType: "overlay", Kind: snapshot.MountRoot},
			{Path: "/dev/shm", FSType: "tmpfs", Kind: snapshot.MountTmpfs, Key: "tmpfs:/dev/shm", Content: content}}}
}

func publish(t testing.TB, s *store.Store, name string, p sample) *snapshot.Snapshot {
	t.Helper()
	sn, err := p.publish(t, s, name, false)
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

func wantKind(t testing.TB, err error, kind snapshot.Kind) {
	t.Helper()
	if err == nil || snapshot.KindOf(err) != kind {
		t.Errorf("error %v has kind %q, want %q", err, snapshot.KindOf(err), kind)
	}
}

// addBase stores a layer with the files, and returns a base of it above dir.
func addBase(t testing.TB, s *store.Store, dir string, files map[string]string) snapshot.Base {
	t.Helper()
	top := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(top, name), content)
	}
	var b bytes.Buffer
	if err := store.WriteTree(t.Context(), &b, top); err != nil {
		t.Fatal(err)
	}
	d, err := s.AddLayer(t.Context(), &b, "")
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Base{Dir: dir, Layers: []string{d}}
}

func TestPublishAndUnpack(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bin/sh"), "shell")
	base := addBase(t, s, dir, map[string]string{"usr/lib/x": "library"})
	sn := publish(t, s, "web", sample{seed: 1, base: base})

	if !slices.Equal(sn.Names, []string{"web"}) {
		t.Errorf("its names are %q", sn.Names)
	}
	got, err := s.Get("web")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(sn, got) {
		t.Errorf("Get returns\n%+v, Publish returned\n%+v", got, sn)
	}
	if r := got.Layers[0]; r.Role != snapshot.RoleBase || r.Digest != base.Layers[0] {
		t.Errorf("the manifest does not begin with the base layer but with %+v", r)
	}
	if err := s.Verify(t.Context(), sn.ID); err != nil {
		t.Error(err)
	}

	u, err := s.Unpack(t.Context(), sn.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, u.Images, "pages-1.img"); got != pages(1, 64) {
		t.Error("pages differ")
	}
	if got := read(t, u.Images, "core-1.img"); got != "core b" {
		t.Errorf("core-1.img holds %q", got)
	}
	if len(u.Lower) != 3 || u.Lower[2] != dir {
		t.Fatalf("lower directories are %q", u.Lower)
	}
	if read(t, u.Lower[0], "etc/own") != "own file of web" || read(t, u.Lower[1], "usr/lib/x") != "library" {
		t.Error("the lower directories are in the wrong order")
	}
	if read(t, u.Contents["tmpfs:/dev/shm"], "segment") != "shared memory" {
		t.Error("content differs")
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), "staging")); len(left) > 2 { // the lease of AddLayer lives on
		t.Errorf("staging holds %v", left)
	}
	unpackAgain(t, s, sn.ID, u)
}

func TestPermissions(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	sn := publish(t, s, "web", sample{seed: 1})
	if _, err := s.Unpack(t.Context(), sn.ID); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(s.Dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		in, _ := filepath.Rel(s.Dir(), path)
		if kind, _, below := strings.Cut(in, "/"); below && (kind == "layers" || kind == "contents") {
			return nil // a root file system has modes of its own; the directory above closes it off
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", in, st.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAddFileMovesAndDeduplicates(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	tx, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Abort()
	var inodes []fs.FileInfo
	for _, name := range []string{"a", "b"} {
		p := filepath.Join(tx.Dir(), name)
		write(t, p, pages(3, 4))
		st, _ := os.Stat(p)
		inodes = append(inodes, st)
		l, err := tx.AddFile(p, snapshot.MediaPages, snapshot.RolePages, "pages-1.img")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", name)
		}
		blob, err := os.Stat(filepath.Join(s.Dir(), "blobs/sha256", strings.TrimPrefix(l.Digest, "sha256:")))
		if err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(inodes[0], blob) || blob.Mode().Perm() != 0o600 {
			t.Error("the blob is not the first file, or has the wrong mode")
		}
	}
}

func TestNames(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	a := publish(t, s, "web", sample{seed: 1})
	if _, err := (sample{seed: 2}).publish(t, s, "web", false); err == nil {
		t.Error("a taken name was given away")
	} else {
		wantKind(t, err, snapshot.KindExists)
	}
	b := publish(t, s, "database", sample{seed: 2})
	if err := s.Tag("web", "frontend"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.Tag("web", "database"), snapshot.KindExists)
	wantKind(t, s.Tag("web", "bad/name"), snapshot.KindInvalid)
	for _, ref := range []string{"web", "frontend", a.ID, strings.TrimPrefix(a.ID, "sha256:"), a.ID[7:15], a.ID[:20]} {
		if id, err := s.Resolve(ref); err != nil || id != a.ID {
			t.Errorf("resolve %q: %q, %v", ref, id, err)
		}
	}
	_, err := s.Resolve("wep")
	wantKind(t, err, snapshot.KindNotFound)
	if h := snapshot.HintOf(err); !strings.Contains(h, "web") || strings.Contains(h, "database") {
		t.Errorf("the hint is %q", h)
	}
	if _, err := s.Resolve("sha256:"); err == nil {
		t.Error("an empty digest was resolved")
	}
	if taken, err := s.NameTaken("frontend"); err != nil || !taken {
		t.Errorf("frontend is free? %v", err)
	}
	if err := s.Remove("web"); err != nil {
		t.Fatal(err)
	}
	if sn, err := s.Get("frontend"); err != nil || !slices.Equal(sn.Names, []string{"frontend"}) {
		t.Errorf("after removing one of two names: %v, %v", sn, err)
	}
	if err := s.Remove(b.ID[:25]); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].ID != a.ID {
		t.Errorf("list: %v, %v", list, err)
	}
	if c, err := (sample{seed: 3}).publish(t, s, "frontend", true); err != nil {
		t.Error(err)
	} else if list, _ := s.List(); len(list) != 1 || list[0].ID != c.ID {
		t.Error("replacing left the old snapshot")
	}
	nameless := publish(t, s, "", sample{seed: 4})
	if err := s.Tag(nameless.ID, "named"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("named"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(nameless.ID)
	wantKind(t, err, snapshot.KindNotFound)
}

func TestAmbiguousPrefix(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	first := make(map[string]string)
	for seed := uint64(0); ; seed++ {
		sn := publish(t, s, "", sample{seed: seed})
		digit := sn.ID[7:8]
		if first[digit] != "" {
			_, err := s.Resolve(digit)
			wantKind(t, err, snapshot.KindInvalid)
			return
		}
		first[digit] = sn.ID
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	tx, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tx.Dir(), "images/core-1.img"), "x")
	for range 2 {
		if err := tx.Abort(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), "staging")); len(left) != 0 {
		t.Errorf("staging holds %v", left)
	}
}

func TestForeignLayoutIsRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"2.0.0"}`)
	_, err := store.Open(dir)
	wantKind(t, err, snapshot.KindIncompatible)
	write(t, filepath.Join(dir, "oci-layout"), `{"imageLay`)
	_, err = store.Open(dir)
	wantKind(t, err, snapshot.KindCorrupt)
}

func TestConcurrentPublishersAndUnpackers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	shared := publish(t, open(t, dir), "shared", sample{seed: 99})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := store.Open(dir) // as another process would
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 3 {
				name := string(rune('a'+i)) + string(rune('0'+j))
				sn, err := sample{seed: uint64(i % 4)}.publish(t, s, name, false)
				if err != nil {
					t.Error(err)
					return
				}
				for _, id := range []string{sn.ID, shared.ID} {
					if u, err := s.Unpack(t.Context(), id); err != nil {
						t.Error(err)
					} else if read(t, u.Images, "inventory.img") != "inventory" {
						t.Error("a half unpacked snapshot was seen")
					}
				}
				if _, _, _, _, err := s.GC(nil, nil, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list, err := open(t, dir).List()
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for _, sn := range list {
		names += len(sn.Names)
	}
	if names != 8*3+1 {
		t.Errorf("there are %d names", names)
	}
}

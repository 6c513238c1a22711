package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// openDamaged makes a store whose soundness the test itself looks at.
func openDamaged(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	return s
}

func blobOf(t testing.TB, s *store.Store, sn *snapshot.Snapshot, role string) (path, digest string) {
	t.Helper()
	for _, l := range sn.Layers {
		if l.Role == role {
			return filepath.Join(s.Dir(), "blobs/sha256", l.Digest[7:]), l.Digest
		}
	}
	t.Fatalf("no blob is %s", role)
	return "", ""
}

func flip(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, st.Size()/2)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, st.Size()/2)
	must(t, err)
}

func TestDamagedBlobs(t *testing.T) {
	damages := map[string]func(testing.TB, string){
		"flipped":   flip,
		"truncated": func(t testing.TB, p string) { must(t, os.Truncate(p, 512)) },
		"missing":   func(t testing.TB, p string) { must(t, os.Remove(p)) },
	}
	for _, role := range []string{snapshot.RoleImages, snapshot.RolePages, snapshot.RoleRootfs, snapshot.RoleContent} {
		for name, damage := range damages {
			t.Run(role+" "+name, func(t *testing.T) {
				s := openDamaged(t)
				sn := publish(t, s, "web", sample{seed: 1})
				other := publish(t, s, "other", sample{seed: 2})
				path, digest := blobOf(t, s, sn, role)
				damage(t, path)
				for op, err := range map[string]error{
					"verify": s.Verify(t.Context(), sn.ID),
					"unpack": func() error { _, err := s.Unpack(t.Context(), sn.ID); return err }(),
					"export": s.Export(t.Context(), sn.ID, &bytes.Buffer{}),
				} {
					wantKind(t, err, snapshot.KindCorrupt)
					if err != nil && !strings.Contains(err.Error(), digest) {
						t.Errorf("%s: %q does not name the blob", op, err)
					}
				}
				for _, repair := range []bool{false, true, false} {
					problems, err := s.Check(t.Context(), repair)
					must(t, err)
					if len(problems) != 1 || !strings.Contains(problems[0].Where, digest[7:]) || problems[0].Remedy == "" {
						t.Errorf("check says %+v", problems)
					}
				}
				must(t, s.Verify(t.Context(), other.ID))
				must(t, s.Remove("web"))
				_, _, _, _, err := s.GC(nil, nil, false)
				must(t, err)
				clean(t, s.Dir())
			})
		}
	}
}

func TestAddingHealsADamagedBlob(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	sn := publish(t, s, "web", sample{seed: 1})
	archive := export(t, s, sn.ID)
	path, _ := blobOf(t, s, sn, snapshot.RolePages)
	flip(t, path)
	_, err := s.Import(t.Context(), bytes.NewReader(archive), "again", nil)
	must(t, err, s.Verify(t.Context(), sn.ID))
}

func TestCheckRepairs(t *testing.T) {
	s := openDamaged(t)
	sn := publish(t, s, "web", sample{seed: 1})
	u, err := s.Unpack(t.Context(), sn.ID)
	must(t, err)
	in := func(elem ...string) string { return filepath.Join(append([]string{s.Dir()}, elem...)...) }
	path, _ := blobOf(t, s, sn, snapshot.RoleRootfs)
	for name, harm := range map[string]func(){
		"mode":           func() { must(t, os.Chmod(path, 0o644)) },
		"directory mode": func() { must(t, os.Chmod(in("layers"), 0o755)) },
		"stray blob":     func() { must(t, os.WriteFile(in("blobs/sha256", strings.Repeat("a", 64)), []byte("x"), 0o600)) },
		"no blob":        func() { must(t, os.WriteFile(in("blobs/sha256/notes.txt"), []byte("x"), 0o600)) },
		"staging": func() {
			must(t, os.Mkdir(in("staging/DEAD"), 0o700), os.WriteFile(in("staging/DEAD.lease"), nil, 0o600))
		},
		"image":         func() { must(t, os.WriteFile(filepath.Join(u.Images, "core-1.img"), []byte("x"), 0o600)) },
		"image missing": func() { must(t, os.Remove(filepath.Join(u.Images, "core-1.img"))) },
		"link broken": func() {
			p := filepath.Join(u.Images, "pages-1.img")
			must(t, os.Remove(p), os.WriteFile(p, []byte(pages(1, 64)), 0o600))
		},
		"layer content": func() { must(t, os.WriteFile(filepath.Join(u.Lower[0], "etc/own"), []byte("x"), 0o644)) },
		"layer extra":   func() { must(t, os.WriteFile(filepath.Join(u.Lower[0], "etc/extra"), nil, 0o644)) },
		"content gone":  func() { must(t, os.Remove(filepath.Join(u.Contents["tmpfs:/dev/shm"], "segment"))) },
		"foreign cache": func() { must(t, os.Mkdir(in("cache/mine"), 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			harm()
			found, err := s.Check(t.Context(), false)
			must(t, err)
			if len(found) != 1 || found[0].Repaired || found[0].Remedy == "" {
				t.Fatalf("check says %+v", found)
			}
			repaired, err := s.Check(t.Context(), true)
			must(t, err)
			if len(repaired) != 1 || !repaired[0].Repaired || repaired[0].Where != found[0].Where {
				t.Errorf("repair says %+v", repaired)
			}
			clean(t, s.Dir())
			if u, err = s.Unpack(t.Context(), sn.ID); err != nil {
				t.Error(err)
			}
			must(t, s.Verify(t.Context(), sn.ID))
			clean(t, s.Dir())
		})
	}
}

// An index that is lost is written anew, and nothing is deleted before.
func TestDamagedIndex(t *testing.T) {
	for name, c := range map[string]struct {
		harm  func(t *testing.T, path, layout string)
		names int // that can still be read
	}{
		"cut short": {func(t *testing.T, path, _ string) { must(t, os.Truncate(path, 700)) }, 1},
		"no json":   {func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, []byte("\x00\x00"), 0o600)) }, 0},
		"no digest": {func(t *testing.T, path, _ string) {
			b := read(t, path)
			must(t, os.WriteFile(path, []byte(strings.Replace(b, `"digest": "sha256:`, `"digest": "sha256:x`, 1)), 0o600))
		}, 2},
		"missing": {func(t *testing.T, path, _ string) { must(t, os.Remove(path)) }, 0},
		"missing, layout too": {func(t *testing.T, path, layout string) {
			must(t, os.Remove(path), os.Remove(layout))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := openDamaged(t)
			for i, name := range []string{"one", "two", "three"} {
				publish(t, s, name, sample{seed: uint64(i)})
			}
			before, err := s.List()
			must(t, err)
			c.harm(t, filepath.Join(s.Dir(), "index.json"), filepath.Join(s.Dir(), "oci-layout"))
			s, err = store.Open(s.Dir())
			must(t, err)
			_, err = s.List()
			wantKind(t, err, snapshot.KindCorrupt)
			if !strings.Contains(snapshot.HintOf(err), "fsck --repair") {
				t.Errorf("the hint is %q", snapshot.HintOf(err))
			}
			_, _, _, _, err = s.GC(nil, nil, false)
			wantKind(t, err, snapshot.KindCorrupt)
			for _, repair := range []bool{false, true} {
				problems, err := s.Check(t.Context(), repair)
				if err != nil || len(problems) != 1 || problems[0].Where != "index.json" || problems[0].Repaired != repair || problems[0].Remedy == "" ||
					!strings.Contains(problems[0].What, fmt.Sprintf("3 entries can be written anew, %d of them", 3-c.names)) {
					t.Fatalf("check says %+v, %v", problems, err)
				}
			}
			clean(t, s.Dir())
			after, err := s.List()
			must(t, err)
			named := 0
			for i, sn := range after {
				named += len(sn.Names)
				if len(after) != len(before) || sn.ID != before[i].ID || len(sn.Names) > 0 && sn.Names[0] != before[i].Names[0] {
					t.Fatalf("there are now %d snapshots, among them %s (%q)", len(after), sn.ID, sn.Names)
				}
			}
			if named != c.names {
				t.Errorf("%d names were saved, not %d", named, c.names)
			}
			must(t, s.Tag(before[2].ID, "again"), s.Verify(t.Context(), before[2].ID))
		})
	}
}

// What a running publication has not made visible is not made so by a repair.
func TestRebuiltIndexLeavesTransactionsAlone(t *testing.T) {
	s := openDamaged(t)
	sn := publish(t, s, "web", sample{seed: 1})
	other := open(t, filepath.Join(t.TempDir(), "other"))
	unpublished := publish(t, other, "web", sample{seed: 2})
	tx, err := s.Begin()
	must(t, err)
	blobs, err := os.ReadDir(filepath.Join(other.Dir(), "blobs/sha256"))
	must(t, err)
	for _, e := range blobs {
		_, err := tx.AddReader(strings.NewReader(read(t, other.Dir(), "blobs/sha256", e.Name())), "x", snapshot.RoleBase, "")
		must(t, err)
	}
	must(t, os.Remove(filepath.Join(s.Dir(), "index.json")))
	_, err = s.Check(t.Context(), true)
	must(t, err)
	list, err := s.List()
	must(t, err)
	if len(list) != 1 || list[0].ID != sn.ID {
		t.Errorf("%d snapshots are listed, and %s must not be", len(list), unpublished.ID)
	}
	must(t, tx.Abort())
}

// An artifact of another program in the same layout is left alone, blobs and all.
func TestForeignArtifacts(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	tx, err := s.Begin()
	must(t, err)
	l, err := tx.AddReader(strings.NewReader("a layer of theirs"), "x", "", "")
	must(t, err)
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + l.Digest +
		`","size":17},"layers":[]}`
	m, err := tx.AddReader(strings.NewReader(manifest), "x", "", "")
	must(t, err)
	index := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + m.Digest + `","size":1,"annotations":{"org.opencontainers.image.ref.name":"theirs"}}]}`
	must(t, os.WriteFile(filepath.Join(s.Dir(), "index.json"), []byte(strings.Replace(index, `"size":1,`, `"size":`+strconv.Itoa(len(manifest))+`,`, 1)), 0o600), tx.Abort())
	_, err = sample{seed: 1}.publish(t, s, "theirs", true)
	wantKind(t, err, snapshot.KindExists)
	publish(t, s, "ours", sample{seed: 1})
	_, _, _, _, err = s.GC(nil, nil, false)
	must(t, err)
	for _, d := range []string{l.Digest, m.Digest} {
		if _, err := os.Stat(filepath.Join(s.Dir(), "blobs/sha256", d[7:])); err != nil {
			t.Errorf("the collector took a blob of theirs: %v", err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	_, err = s.Resolve("theirs")
	wantKind(t, err, snapshot.KindNotFound)
	if b := read(t, s.Dir(), "index.json"); !strings.Contains(b, "theirs") {
		t.Error("their entry is gone")
	}
}

// full mounts a small tmpfs for a store.
func full(t *testing.T, size string) string {
	t.Helper()
	probetest.Need(t, "tmpfs")
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=700"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

func TestFullDisk(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	t.Run("publish", func(t *testing.T) {
		dir := full(t, "900k")
		s := open(t, filepath.Join(dir, "store"))
		first := publish(t, s, "first", sample{seed: 1})
		tx, err := s.Begin()
		must(t, err)
		_, err = tx.AddReader(bytes.NewReader(big), "x", snapshot.RoleBase, "")
		wantKind(t, err, snapshot.KindNoSpace)
		if snapshot.HintOf(err) == "" {
			t.Error("there is no hint")
		}
		must(t, tx.Abort())
		_, err = s.AddLayer(t.Context(), bytes.NewReader(tarOf(t, entry{regular("x"), big})), "")
		wantKind(t, err, snapshot.KindNoSpace)
		must(t, s.Verify(t.Context(), first.ID))
	})
	t.Run("index", func(t *testing.T) {
		dir := full(t, "900k")
		s := open(t, filepath.Join(dir, "store"))
		sn := publish(t, s, "first", sample{seed: 1})
		ballast, err := os.Create(filepath.Join(dir, "ballast"))
		must(t, err)
		for err == nil {
			_, err = ballast.Write(make([]byte, 4096))
		}
		ballast.Close()
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = s.Tag("first", "second")
		wantKind(t, err, snapshot.KindNoSpace)
		tx, err := s.Begin()
		if err == nil {
			_, err = tx.AddReader(strings.NewReader("more"), "x", snapshot.RoleBase, "")
			must(t, tx.Abort())
		}
		wantKind(t, err, snapshot.KindNoSpace)
		must(t, os.Remove(ballast.Name()))
		if got, err := s.Get("first"); err != nil || got.ID != sn.ID || len(got.Names) != 1 {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("unpack and import", func(t *testing.T) {
		a := open(t, filepath.Join(t.TempDir(), "a"))
		base := addBase(t, a, "", map[string]string{"big": string(big)})
		sn := publish(t, a, "web", sample{seed: 1, base: base})
		archive := export(t, a, sn.ID)
		small := open(t, filepath.Join(full(t, "900k"), "store"))
		_, err := small.Import(t.Context(), bytes.NewReader(archive), "", nil)
		wantKind(t, err, snapshot.KindNoSpace)
		medium := open(t, filepath.Join(full(t, "2300k"), "store"))
		got, err := medium.Import(t.Context(), bytes.NewReader(archive), "", nil)
		must(t, err)
		_, err = medium.Unpack(t.Context(), got.ID)
		wantKind(t, err, snapshot.KindNoSpace)
		for _, kind := range []string{"layers", "cache", "staging"} {
			if left, _ := os.ReadDir(filepath.Join(medium.Dir(), kind)); len(left) > 0 && kind != "layers" {
				t.Errorf("%s holds %v", kind, left)
			}
		}
	})
}

func TestUnpackOfAMissingBaseDirectory(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	dir := filepath.Join(t.TempDir(), "base")
	must(t, os.Mkdir(dir, 0o755))
	sn := publish(t, s, "web", sample{seed: 1, base: snapshot.Base{Dir: dir}})
	_, err := s.Unpack(t.Context(), sn.ID)
	must(t, err, os.Remove(dir))
	_, err = s.Unpack(t.Context(), sn.ID)
	wantKind(t, err, snapshot.KindIncompatible)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzImport(f *testing.F) {
	s, err := store.Open(filepath.Join(f.TempDir(), "seed"))
	must(f, err)
	sn, err := sample{seed: 1}.publish(f, s, "web", false)
	must(f, err)
	f.Add(export(f, s, sn.ID))
	var b bytes.Buffer
	must(f, s.ExportPodman(f.Context(), sn.ID, &b))
	f.Add(b.Bytes())
	f.Add(theirs(f))
	base := &snapshot.Base{Dir: f.TempDir()}
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		s, err := store.Open(filepath.Join(dir, "store"))
		must(t, err)
		for _, read := range []func() (*snapshot.Snapshot, error){
			func() (*snapshot.Snapshot, error) { return s.Import(t.Context(), bytes.NewReader(archive), "a", nil) },
			func() (*snapshot.Snapshot, error) {
				return s.ImportPodman(t.Context(), bytes.NewReader(archive), "b", base, adopt, nil)
			},
		} {
			sn, err := read()
			if err != nil {
				if k := snapshot.KindOf(err); k == snapshot.KindFailed {
					t.Errorf("%v", err)
				}
				continue
			}
			must(t, s.Verify(t.Context(), sn.ID))
		}
		clean(t, s.Dir())
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("beside the store lies %v", names)
		}
	})
}

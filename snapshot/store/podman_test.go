package store_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

func TestPodmanRoundTrip(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "a"))
	base := addBase(t, a, "", map[string]string{"usr/lib/x": "library", "srv/hidden": "x", "srv/kept": "old"})
	tx, err := a.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Abort()
	write(t, filepath.Join(tx.Dir(), "images/inventory.img"), "inventory")
	write(t, filepath.Join(tx.Dir(), "images/pages-1.img"), pages(1, 2))
	layers, err := tx.AddImages(filepath.Join(tx.Dir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	for _, h := range []*tar.Header{{Name: "srv/", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "srv/.wh..wh..opq", Typeflag: tar.TypeReg},
		{Name: "srv/kept", Typeflag: tar.TypeReg, Mode: 0o640}, {Name: "usr/lib/.wh.x", Typeflag: tar.TypeReg}} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	tw.Close()
	rootfs, err := tx.AddReader(&layer, "application/vnd.oci.image.layer.v1.tar", snapshot.RoleRootfs, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg := sample{seed: 1, base: base}.config("")
	sn, err := tx.Publish("web", cfg, append(layers, rootfs), false)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := a.ExportPodman(t.Context(), sn.ID, &b); err != nil {
		t.Fatal(err)
	}
	if !store.IsPodmanArchive(bufio.NewReaderSize(bytes.NewReader(b.Bytes()), 1<<16)) {
		t.Error("the archive is not taken for what it is")
	}
	if store.IsPodmanArchive(bufio.NewReaderSize(bytes.NewReader(export(t, a, sn.ID)), 1<<16)) {
		t.Error("an OCI layout is taken for a podman archive")
	}
	got, err := a.ImportPodman(t.Context(), bytes.NewReader(b.Bytes()), "back", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Config.Source != sn.Config.Source || got.Config.Base.Layers[0] != base.Layers[0] {
		t.Errorf("came back as %+v", got.Config)
	}
	u, err := a.Unpack(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/lib/x", "srv/hidden"} {
		st, err := os.Lstat(filepath.Join(u.Lower[0], name))
		if err != nil || st.Mode()&os.ModeCharDevice == 0 {
			t.Errorf("%s is not deleted: %v, %v", name, st, err)
		}
	}
	if st, err := os.Lstat(filepath.Join(u.Lower[0], "srv/kept")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("srv/kept: %v, %v", st, err)
	}
	if read(t, u.Images, "pages-1.img") != pages(1, 2) {
		t.Error("pages differ")
	}
	// Another store has no such base.
	_, err = open(t, filepath.Join(t.TempDir(), "b")).ImportPodman(t.Context(), bytes.NewReader(b.Bytes()), "back", nil, nil, nil)
	wantKind(t, err, snapshot.KindIncompatible)
	if !strings.Contains(snapshot.HintOf(err), "--base") {
		t.Errorf("the hint is %q", snapshot.HintOf(err))
	}
}

// adopt finds the mounts that the images of theirs would have.
func adopt(_ string, cfg *snapshot.Config) (uint32, error) {
	cfg.Mounts = []snapshot.Mount{{Path: "/", Kind: snapshot.MountRoot}, {Path: "/dev/shm", Kind: snapshot.MountTmpfs, Key: "/dev/shm"}}
	return 0o755, nil
}

// theirs is an archive as podman writes it.
func theirs(t testing.TB, more ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	var diff bytes.Buffer
	dw := tar.NewWriter(&diff)
	_ = dw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "data/deep/new", Mode: 0o600, Size: 3})
	_, _ = dw.Write([]byte("new"))
	dw.Close()
	for _, e := range append([]entry{
		{&tar.Header{Typeflag: tar.TypeDir, Name: "checkpoint/", Mode: 0o700}, nil},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/inventory.img"}, []byte("inventory")},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/pages-1.img"}, []byte(pages(5, 1))},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "config.dump"}, []byte(`{"id":"abc","name":"counter","rootfsImageName":"docker.io/library/busybox:latest","runtime":"crun","createdTime":"2024-01-02T03:04:05Z","ignored":{"x":1}}`)},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "spec.dump"}, []byte(`{"ociVersion":"1.0.0","hostname":"abc","process":{"args":["sleep","100"],"cwd":"/"},
			"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev/shm","type":"bind","source":"/x/shm","options":["bind"]},
			{"destination":"/etc/hosts","type":"bind","source":"/x/hosts","options":["bind","rprivate"]}],
			"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}],"resources":{"memory":{"limit":1048576},"cpu":{"quota":150000,"period":100000},"pids":{"limit":77}}}}`)},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "rootfs-diff.tar"}, diff.Bytes()},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "deleted.files"}, []byte(`["/data/old"]`)},
		{&tar.Header{Typeflag: tar.TypeReg, Name: "network.status"}, []byte(`{}`)},
	}, more...) {
		e.h.Size = int64(len(e.content))
		if err := tw.WriteHeader(e.h); err != nil {
			t.Fatal(err)
		}
		_, _ = tw.Write(e.content)
	}
	tw.Close()
	return b.Bytes()
}

func TestImportOfPodmansOwn(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	archive := theirs(t)
	_, err := s.ImportPodman(t.Context(), bytes.NewReader(archive), "counter", nil, adopt, nil)
	wantKind(t, err, snapshot.KindIncompatible)

	dir := t.TempDir()
	write(t, filepath.Join(dir, "data/old"), "old")
	if err := os.Chmod(filepath.Join(dir, "data"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := s.PinImage("docker.io/library/busybox:latest", snapshot.Base{Dir: dir}, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	sn, err := s.ImportPodman(t.Context(), bytes.NewReader(archive), "counter", nil, adopt, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := snapshot.Limits{MemoryBytes: 1048576, CPUs: 1.5, Pids: 77}
	if c := sn.Config; c.Limits != want || c.Args[0] != "sleep" || c.Source.Name != "counter" || c.Base.Dir != dir {
		t.Errorf("translated to %+v", c)
	}
	if len(sn.Config.Mounts) != 2 {
		t.Errorf("mounts are %+v", sn.Config.Mounts)
	}
	u, err := s.Unpack(t.Context(), sn.ID)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(filepath.Join(u.Lower[0], "data/old")); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("data/old is not deleted: %v", err)
	}
	if st, err := os.Lstat(filepath.Join(u.Lower[0], "data")); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("a directory that the archive does not list has lost the image's mode: %v, %v", st.Mode(), err)
	}
	if read(t, u.Lower[0], "data/deep/new") != "new" {
		t.Error("data/deep/new differs")
	}
}

func TestImportPodmanRefuses(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	base := &snapshot.Base{Dir: t.TempDir()}
	for name, e := range map[string]entry{
		"dot dot":       {&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/../../x"}, nil},
		"symlink":       {&tar.Header{Typeflag: tar.TypeSymlink, Name: "checkpoint/core-1.img", Linkname: "/etc/shadow"}, nil},
		"device":        {&tar.Header{Typeflag: tar.TypeChar, Name: "artifacts", Devmajor: 1, Devminor: 1}, nil},
		"twice":         {&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/inventory.img"}, nil},
		"deleted files": {&tar.Header{Typeflag: tar.TypeReg, Name: "deleted.files"}, []byte(`["x`)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.ImportPodman(t.Context(), bytes.NewReader(theirs(t, e)), "x", base, adopt, nil)
			wantKind(t, err, snapshot.KindCorrupt)
		})
	}
	incremental := entry{&tar.Header{Typeflag: tar.TypeSymlink, Name: "checkpoint/parent", Linkname: "../pre-checkpoint"}, nil}
	_, err := s.ImportPodman(t.Context(), bytes.NewReader(theirs(t, incremental)), "x", base, adopt, nil)
	wantKind(t, err, snapshot.KindIncompatible)
}

func TestCheckpointctlReadsOurs(t *testing.T) {
	ctl := testengine.Checkpointctl(t)
	s := open(t, filepath.Join(t.TempDir(), "store"))
	sn := publish(t, s, "web", sample{seed: 1})
	file := filepath.Join(t.TempDir(), "web.tar.zst")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ExportPodman(t.Context(), sn.ID, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, args := range [][]string{{"show", file}, {"inspect", file}, {"inspect", "--stats", "--mounts", "--metadata", file}, {"inspect", "--format", "json", file}} {
		out, err := exec.Command(ctl, args...).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("0123456789ab")) || !bytes.Contains(out, []byte("web")) {
			t.Errorf("checkpointctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

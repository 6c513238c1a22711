package api_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

// refused checks that an error is of a kind, says certain words, and comes with a hint.
func refused(t *testing.T, err error, kind snapshot.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if got := snapshot.KindOf(err); got != kind {
		t.Errorf("kind %s, want %s: %v", got, kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
	if snapshot.HintOf(err) == "" {
		t.Errorf("no hint: %v", err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
}

// TestBadRequests makes requests that cannot work; nothing may be changed by them.
func TestBadRequests(t *testing.T) {
	svc, in := open(t)
	ctx := t.Context()
	c := ticking(t, svc)
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: c.ID, Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	gone, err := svc.Run(ctx, api.RunRequest{Name: "gone", Rootfs: testrootfs.Busybox(t), Args: []string{"sh", "-c", "exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := svc.Wait(ctx, gone.ID); err != nil || status != 3 {
		t.Fatalf("wait: %d, %v", status, err)
	}
	before := listing(t, svc)

	_, err = svc.Snapshot(ctx, api.SnapshotRequest{Container: "nobody", Name: "x"})
	refused(t, err, snapshot.KindNotFound, "nobody")
	_, err = svc.Snapshot(ctx, api.SnapshotRequest{Container: "gone", Name: "x"})
	refused(t, err, snapshot.KindState, "exited")
	_, err = svc.Snapshot(ctx, api.SnapshotRequest{Container: "victim", Name: "snap"})
	refused(t, err, snapshot.KindExists, "snap")
	_, err = svc.Snapshot(ctx, api.SnapshotRequest{Container: "victim", Name: "../x"})
	refused(t, err, snapshot.KindInvalid, "../x")
	_, err = svc.Snapshot(ctx, api.SnapshotRequest{Container: "victim", Name: "x", Warm: 3})
	refused(t, err, snapshot.KindInvalid, "warm")
	_, err = svc.Snapshot(ctx, api.SnapshotRequest{Container: "victim", Name: "x", Ready: "ftp://x"})
	refused(t, err, snapshot.KindInvalid, "ftp://x")
	_, err = svc.Snapshot(ctx, api.SnapshotRequest{Runtime: "lxc:x", Name: "x"})
	refused(t, err, snapshot.KindInvalid, "lxc")
	_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "none", Count: 1})
	refused(t, err, snapshot.KindNotFound, "none")
	_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 0})
	refused(t, err, snapshot.KindInvalid, "0 clones")
	_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Engine: "magic"})
	refused(t, err, snapshot.KindInvalid, "magic")
	_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Name: "victim"})
	refused(t, err, snapshot.KindExists, "victim")
	_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Limits: &snapshot.Limits{MemoryBytes: 4096}})
	refused(t, err, snapshot.KindInvalid, "memory limit")
	_, err = svc.Run(ctx, api.RunRequest{Name: "victim", Rootfs: testrootfs.Busybox(t), Args: []string{"true"}})
	refused(t, err, snapshot.KindExists, "victim")
	_, err = svc.Run(ctx, api.RunRequest{Rootfs: filepath.Join(in.Root, "none"), Args: []string{"true"}})
	refused(t, err, snapshot.KindNotFound, "none")
	refused(t, svc.Remove(ctx, "victim", false), snapshot.KindState, "running")
	refused(t, svc.Kill(ctx, "victim", "SIGNOTHING"), snapshot.KindInvalid, "SIGNOTHING")

	if after := listing(t, svc); after != before {
		t.Errorf("changed by requests that were refused:\n%s\nwas\n%s", after, before)
	}
	if err := ticks(ctx, svc, c); err != nil {
		t.Error(err)
	}
	// A snapshot that clones stand on stays.
	if _, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Name: "user"}); err != nil {
		t.Fatal(err)
	}
	refused(t, svc.RemoveSnapshot(ctx, "snap"), snapshot.KindState, "user")
}

// listing is everything that can be listed, in a text.
func listing(t *testing.T, svc *api.Local) string {
	t.Helper()
	var b strings.Builder
	cs, err := svc.Containers(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cs {
		b.WriteString(c.Name + " " + string(c.Status) + "\n")
	}
	ss, err := svc.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range ss {
		b.WriteString(s.ID + " " + strings.Join(s.Names, ",") + "\n")
	}
	return b.String()
}

// TestToolMissing has no CRIU, and one that is too old: the requests say so and how to mend it.
func TestToolMissing(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	old := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho Version: 3.17.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(in.Root, "no-criu"), old} {
		cfg := apitest.Config(in)
		cfg.CRIU = path
		other, err := api.OpenLocal(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = other.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"})
		refused(t, err, snapshot.KindUnsupported)
		other.Close()
	}
	if err := ticks(t.Context(), svc, c); err != nil {
		t.Error(err)
	}
}

// TestDiskFull takes a snapshot that does not fit: the container runs on, nothing is visible, and when there is room
// again the same request works.
func TestDiskFull(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	storeDir := filepath.Join(in.Root, "store")
	if err := sys.MountTmpfs(storeDir, "size=192k,mode=700"); err != nil {
		t.Fatal(err)
	}
	mounted := true
	unmount := func() {
		if mounted {
			if err := sys.Unmount(storeDir); err != nil {
				t.Error(err)
			}
			mounted = false
		}
	}
	defer unmount()
	small, err := api.OpenLocal(t.Context(), apitest.Config(in))
	if err != nil {
		t.Fatal(err)
	}
	_, err = small.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"})
	refused(t, err, snapshot.KindNoSpace, "no space left")
	if err := ticks(t.Context(), svc, c); err != nil {
		t.Fatalf("the container does not run on: %v", err)
	}
	if ss, err := small.Snapshots(t.Context()); err != nil || len(ss) > 0 {
		t.Fatalf("visible: %v, %v", ss, err)
	}
	unmount()
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"}); err != nil {
		t.Fatalf("with room again: %v", err)
	}
}

// TestDamagedStore clones a snapshot with a damaged blob, one with a blob cut short, and one of another architecture.
func TestDamagedStore(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	s, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := svc.ExportSnapshot(t.Context(), "snap", &archive, api.ArchiveOCI); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Snapshot.Layers {
		if l.Role != snapshot.RolePages {
			continue
		}
		blob := filepath.Join(in.Root, "store", "blobs", "sha256", strings.TrimPrefix(l.Digest, "sha256:"))
		if err := os.Truncate(blob, l.Size-4096); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, svc.VerifySnapshot(t.Context(), "snap"), snapshot.KindCorrupt)
	_, err = svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 1})
	refused(t, err, snapshot.KindCorrupt)
	problems, err := svc.Fsck(t.Context(), false)
	if err != nil || len(problems) == 0 {
		t.Errorf("fsck finds nothing: %v", err)
	}
	if err := svc.RemoveSnapshot(t.Context(), "snap"); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.GC(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Fsck(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	cut := archive.Bytes()[:archive.Len()/2]
	_, err = svc.ImportSnapshot(t.Context(), bytes.NewReader(cut), api.ImportRequest{Name: "snap"})
	refused(t, err, snapshot.KindCorrupt)
	got, err := svc.ImportSnapshot(t.Context(), &archive, api.ImportRequest{Name: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	clones, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: got.ID, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := ticks(t.Context(), svc, clones[0]); err != nil {
		t.Error(err)
	}
}

// TestModes checks that nobody but root gets at what holds memory: every directory that leads to it is root's alone, so
// is every blob and every socket.
func TestModes(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 1}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, pattern := range []string{".", "store", "store/*", "store/blobs/*", "store/blobs/sha256/*", "store/cache/*",
		"store/cache/*/images", "store/cache/*/images/*", "containers", "containers/*", "containers/*/log", "containers/*/config.json",
		"../run", "../run/shims", "../run/shims/*"} {
		found, err := filepath.Glob(filepath.Join(in.Root, pattern))
		if err != nil || len(found) == 0 {
			t.Errorf("nothing matches %s: %v", pattern, err)
		}
		for _, path := range found {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			seen++
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d files were looked at", seen)
	}
}

// TestCancelledCapture has the user change their mind while the container is being warmed.
func TestCancelledCapture(t *testing.T) {
	svc, _ := open(t)
	c := ticking(t, svc)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: c.ID, Name: "snap", Ready: "http://:9/"}); err == nil {
		t.Fatal("no error")
	}
	if ss, err := svc.Snapshots(t.Context()); err != nil || len(ss) > 0 {
		t.Errorf("visible: %v, %v", ss, err)
	}
	if err := ticks(t.Context(), svc, c); err != nil {
		t.Error(err)
	}
}

package api_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// TestPodmanCheckpoint has podman checkpoint a container into an archive, of which clones count on.
func TestPodmanCheckpoint(t *testing.T) {
	svc, in := open(t)
	t.Setenv("PATH", filepath.Dir(in.CRIU)+":"+os.Getenv("PATH"))
	startPodman(t, "runc", "-m", "64m", "--hostname", "inner")
	archive := filepath.Join(t.TempDir(), "checkpoint.tar.gz")
	testengine.Command(t, "sh", "-c", "until [ $(podman logs web | wc -l) -ge 5 ]; do sleep 0.05; done")
	testengine.Command(t, "podman", "--runtime", "runc", "container", "checkpoint", "--export", archive, "web")
	lines := strings.Fields(testengine.Command(t, "podman", "logs", "web"))
	last, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	importArchive(ctx, t, svc, archive, api.ImportRequest{Name: "theirs", Base: testrootfs.Busybox(t)})
	clones := cloneTwo(ctx, t, svc, "theirs")
	for _, c := range clones {
		countedTo(t, c.Pid, last+5)
		checkForeignClone(ctx, t, svc, c, wanted{mode: "none", limits: snapshot.Limits{MemoryBytes: 64 << 20, Pids: 2048}})
		if first := firstLogged(ctx, t, svc, c); first != last+1 {
			t.Errorf("%s goes on with %d after %d", c.Name, first, last)
		}
	}
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: clones[0].ID, Name: "again"}); err != nil {
		t.Fatalf("snapshot of a clone: %v\n%s", err, snapshot.LogOf(err))
	}
}

// TestPodmanArchive exports a snapshot of a real container for podman, has checkpointctl read it, and clones what comes
// back.
func TestPodmanArchive(t *testing.T) {
	svc, _ := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c, err := svc.Run(ctx, api.RunRequest{Name: "web", Rootfs: testrootfs.Busybox(t), Args: []string{"sh", "-c", counting}})
	if err != nil {
		t.Fatal(err)
	}
	before := countedTo(t, c.Pid, 5)
	name := ""
	for i, zombie := 0, true; zombie && i < 20; i++ { // of which there are no pages, and checkpointctl wants some of each process
		name = fmt.Sprint("ours-", i)
		got, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: "web", Name: name})
		if err != nil {
			t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
		}
		zombie = slices.ContainsFunc(got.Snapshot.Config.Processes, func(p snapshot.Process) bool { return p.Bytes == 0 })
	}
	after := countedTo(t, c.Pid, before)
	archive := filepath.Join(t.TempDir(), "ours.tar.zst")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := svc.ExportSnapshot(ctx, name, f, api.ArchivePodman); err != nil {
		t.Fatal(err)
	}
	t.Run("checkpointctl", func(t *testing.T) {
		ctl := testengine.Checkpointctl(t)
		for _, c := range []struct{ args, want string }{{"show", "web"}, {"inspect --ps-tree", "httpd"}, {"inspect --all", "LISTEN"}} {
			out := testengine.Command(t, ctl, append(strings.Fields(c.args), archive)...)
			if !strings.Contains(out, c.want) {
				t.Errorf("checkpointctl %s says nothing of %s:\n%s", c.args, c.want, out)
			}
		}
	})
	importArchive(ctx, t, svc, archive, api.ImportRequest{Name: "back", Base: testrootfs.Busybox(t)})
	for _, c := range cloneTwo(ctx, t, svc, "back") {
		if first := firstLogged(ctx, t, svc, c); first < before || first > after+1 {
			t.Errorf("%s goes on with %d, having stood between %d and %d", c.Name, first, before, after)
		}
	}
}

func importArchive(ctx context.Context, t *testing.T, svc *api.Local, path string, r api.ImportRequest) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.ImportSnapshot(ctx, bytes.NewReader(b), r); err != nil {
		t.Fatalf("import: %v (%s)", err, snapshot.HintOf(err))
	}
}

func cloneTwo(ctx context.Context, t *testing.T, svc *api.Local, ref string) []*snapshot.Container {
	t.Helper()
	clones, err := svc.Clone(ctx, api.CloneRequest{Snapshot: ref, Count: 2, Name: "clone"})
	if err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	return clones
}

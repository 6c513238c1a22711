package oracle

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

// treeRootfs returns a root file system with a program of testdata in it, by its own name and as /other.
func treeRootfs(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(testrootfs.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	letters := bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz"), 400)
	if err := os.WriteFile(filepath.Join(dir, "letters"), letters, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{program, "other"} {
		out, err := exec.CommandContext(t.Context(), "cc", "-O1", "-static", "-pthread", "-o", filepath.Join(dir, name),
			filepath.Join("testdata", program, program+".c")).CombinedOutput()
		if err != nil {
			t.Fatalf("compile %s: %v\n%s", program, err, out)
		}
	}
	return dir
}

// TestTree has each engine clone a container of five processes that share a file, memory and pipes, and a clone of such a
// clone. All must look alike, and find what they had in common still in common, with nobody else.
func TestTree(t *testing.T) {
	rootfs := treeRootfs(t, "tree")
	t.Run("one user", func(t *testing.T) { tree(t, rootfs) })
	t.Run("several users", func(t *testing.T) {
		probetest.Need(t, "cap-sys-resource")
		tree(t, rootfs, "users")
	})
}

func tree(t *testing.T, rootfs string, args ...string) {
	svc, _ := apitest.Open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tr := try(ctx, t, svc, api.RunRequest{Name: "original", Rootfs: rootfs, Args: append([]string{"/tree"}, args...)},
		func(c *snapshot.Container) error { _, err := ask(c, "ready"); return err })
	report := func(c *snapshot.Container) (string, error) { return ask(c, "report") }
	tr.report = report
	all := []witness{tr.original()}
	all = append(all, tr.clones(ctx, all[0])...)
	if len(all) != 1+len(engines()) {
		t.Fatal("it was refused")
	}
	compareAll(t, all)
	last := all[len(all)-1]
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: last.container.ID, Name: "again"}); err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	second, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "again", Count: 2, Name: "second", Engine: last.engine})
	if err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	tr.containers = append(tr.containers, second...)
	for _, c := range second {
		w := settled(all[0], look(t, c.Name, last.engine, c, report))
		same(t, all[0], w)
		all = append(all, w)
	}
	for range 3 {
		for _, w := range all {
			answer, err := ask(w.container, "check")
			if err != nil || strings.TrimSpace(answer) != "ok" {
				t.Errorf("%s finds: %s %v", w.name, answer, err)
			}
		}
	}
}

package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"google.golang.org/protobuf/proto"
)

// TestPieces splits runs at the edges of what a child does not inherit; each piece points to its own part of the file.
func TestPieces(t *testing.T) {
	const p = pageSize
	r := run{addr: 10 * p, pages: 10, offset: 3 * p}
	for name, c := range map[string]struct {
		wiped []span
		want  []PageRun
	}{
		"none":    {nil, []PageRun{{10 * p, 20 * p, "f", 3 * p, false}}},
		"outside": {[]span{{0, 10 * p}, {20 * p, 30 * p}}, []PageRun{{10 * p, 20 * p, "f", 3 * p, false}}},
		"all":     {[]span{{0, 30 * p}}, []PageRun{{10 * p, 20 * p, "f", 3 * p, true}}},
		"two": {[]span{{5 * p, 12 * p}, {15 * p, 16 * p}}, []PageRun{
			{10 * p, 12 * p, "f", 3 * p, true}, {12 * p, 15 * p, "f", 5 * p, false},
			{15 * p, 16 * p, "f", 8 * p, true}, {16 * p, 20 * p, "f", 9 * p, false}}},
	} {
		if got := pieces(r, "f", c.wiped); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestSetDiesWithParent changes one field of the root task's core image, and only where the task has not set it itself.
func TestSetDiesWithParent(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.CopyFS(dir, os.DirFS("testdata/images")))
	im := mustOpen(t, dir)
	path := filepath.Join(dir, coreName(im.tree[0].GetPid()))
	core := func() (*criu_core.CoreEntry, [][]byte) {
		t.Helper()
		records, err := readImage(dir, coreName(im.tree[0].GetPid()), magicCore)
		ok(t, err)
		var c criu_core.CoreEntry
		ok(t, decode(path, records[0], &c))
		return &c, records[1:]
	}
	dies := func(want bool) {
		t.Helper()
		if got, err := im.DiesWithParent(); err != nil || got != want {
			t.Errorf("dies with its parent: %v, %v, want %v", got, err, want)
		}
	}
	before, rest := core()
	dies(false)
	ok(t, im.SetDiesWithParent())
	dies(true)
	after, restAfter := core()
	want := proto.CloneOf(before)
	want.ThreadCore.PdeathSig = new(uint32(syscall.SIGKILL))
	if !proto.Equal(want, after) || !slices.EqualFunc(rest, restAfter, bytes.Equal) {
		t.Error("more than the signal was changed")
	}

	// The task's own choice.
	after.ThreadCore.PdeathSig = new(uint32(syscall.SIGTERM))
	record, err := proto.MarshalOptions{AllowPartial: true}.Marshal(after)
	ok(t, err)
	whole, err := os.ReadFile(path)
	ok(t, err)
	chosen := appendRecord(slices.Clone(whole[:8]), record)
	ok(t, os.WriteFile(path, chosen, 0o600))
	im = mustOpen(t, dir)
	ok(t, im.SetDiesWithParent())
	dies(false)
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, chosen) {
		t.Errorf("the image of a task that has asked for a signal was changed (%v)", err)
	}

	ok(t, os.WriteFile(path, whole[:8], 0o600))
	if err := im.SetDiesWithParent(); err == nil {
		t.Error("an image without a record was taken")
	}
}

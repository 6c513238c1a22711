package api_test

import (
	"context"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// TestTemplateClonesApart has a hundred clones of one template each write its own number to everything that processes can
// have in common. None finds another's, and no byte of the template has changed in the end.
func TestTemplateClonesApart(t *testing.T) {
	svc, _ := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	original := snapshotOf(ctx, t, svc, "snap", api.RunRequest{Name: "original", Rootfs: compiled(t, "apart"), Args: []string{"/apart"}})
	first := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "first", 1)[0]
	template := templateOf(t, first.ShimPid)
	before := memoryOf(t, template)
	clones := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "apart", 100)
	for i, c := range clones {
		tell(t, c, "go", fmt.Sprint(i+1))
	}
	for _, c := range clones {
		if err := eventually(ctx, func() error {
			_, err := os.Readlink(fmt.Sprintf("/proc/%d/root/wrote", c.Pid))
			return err
		}); err != nil {
			t.Fatalf("%s does not write: %v", c.Name, err)
		}
	}
	for _, c := range clones {
		tell(t, c, "check", "")
	}
	for _, c := range clones {
		lines := reported(ctx, t, svc, c, "apart")
		for _, line := range lines {
			if strings.HasPrefix(line, "bad ") {
				t.Errorf("%s: %s", c.Name, line)
			}
		}
		if len(lines) < 20 || lines[len(lines)-1] != "done" {
			t.Errorf("%s says only %q", c.Name, lines)
		}
	}
	if after := memoryOf(t, template); after != before {
		t.Errorf("the template's memory was %s and is %s", before, after)
	}
	if templateOf(t, first.ShimPid) != template {
		t.Error("there is another template")
	}
	// The original, which has taken no part, is as it was.
	if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root/wrote", original.Pid)); !os.IsNotExist(err) {
		t.Errorf("the original has written: %v", err)
	}
}

// memoryOf is a sum of all that a process has in private memory, but for where the stub works.
func memoryOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	var bytes uint64
	stub := false
	for line := range strings.Lines(string(b)) {
		var start, end uint64
		var perms string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &perms); err != nil {
			t.Fatal(err)
		}
		name := strings.Join(strings.Fields(line)[5:], "")
		// The stub's memory: code, frames, and then what it writes to.
		if stub = stub && perms != "r-xp" || perms == "r-xp" && name == ""; stub && perms == "rw-p" {
			stub = false
			continue
		}
		if !strings.HasSuffix(perms, "p") || strings.HasPrefix(perms, "-") || strings.HasPrefix(name, "[v") {
			continue
		}
		n, err := io.Copy(sum, io.NewSectionReader(mem, int64(start), int64(end-start)))
		if err != nil {
			t.Fatalf("read %x-%x of the template: %v", start, end, err)
		}
		bytes += uint64(n)
	}
	if bytes < 1<<20 {
		t.Fatalf("the template has %d bytes", bytes)
	}
	return fmt.Sprintf("%x of %d bytes", sum.Sum64(), bytes)
}

// TestTemplatesOfSnapshots makes clones of two snapshots: each has a template of its own, with memory of its own.
func TestTemplatesOfSnapshots(t *testing.T) {
	svc, _ := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rootfs := compiled(t, "apart")
	snapshotOf(ctx, t, svc, "one", api.RunRequest{Name: "first", Rootfs: rootfs, Args: []string{"/apart"}})
	snapshotOf(ctx, t, svc, "two", api.RunRequest{Name: "second", Rootfs: rootfs, Args: []string{"/apart"}})
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: "second", Name: "three"}); err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]string)
	for _, snap := range []string{"one", "two", "three"} {
		made := clonesBy(ctx, t, svc, snapshot.EngineTemplate, snap, "of-"+snap, 2)
		if made[0].ShimPid != made[1].ShimPid {
			t.Errorf("clones of %s have the shims %d and %d", snap, made[0].ShimPid, made[1].ShimPid)
		}
		template := templateOf(t, made[0].ShimPid)
		if of := seen[template]; of != "" {
			t.Errorf("%s has the template of %s", snap, of)
		}
		seen[template] = snap
	}
}

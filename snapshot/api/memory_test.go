package api_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// memoryRootfs is a root file system that holds nothing but the program of testdata/memory.c.
func memoryRootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(testrootfs.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("cc", "-O1", "-static", "-pthread", "-o", filepath.Join(dir, "memory"), "testdata/memory.c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile memory.c: %v\n%s", err, out)
	}
	return dir
}

// checked waits until the container has checked all its memory twice, and fails the test when it found a wrong page.
func checked(t *testing.T, svc *api.Local, c *snapshot.Container) {
	t.Helper()
	rounds, last := 0, status(svc, c)
	deadline := time.Now().Add(time.Minute)
	for rounds < 2 {
		now := status(svc, c)
		if strings.HasPrefix(now, "bad") {
			t.Fatalf("%s: %s", c.Name, now)
		}
		if now != last {
			rounds, last = rounds+1, now
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not check its memory: %q", c.Name, now)
		}
		time.Sleep(time.Millisecond)
	}
}

func status(svc *api.Local, c *snapshot.Container) string {
	b, _ := os.ReadFile(filepath.Join(svc.ContainerDir(c.ID), "upper", "status"))
	return strings.TrimSpace(string(b))
}

// TestMemory clones a program with memory of every kind that checks all of it from its first instruction on, while the
// memory arrives. Every clone, and a clone of a clone that was captured at once, finds what the original had.
func TestMemory(t *testing.T) {
	for _, mode := range []string{"lazy", "eager"} {
		t.Run(mode, func(t *testing.T) {
			t.Setenv("SNAPD_CTR_MEMORY", mode)
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			original, err := svc.Run(ctx, api.RunRequest{Name: "original", Rootfs: memoryRootfs(t), Args: []string{"/memory"}})
			if err != nil {
				t.Fatal(err)
			}
			checked(t, svc, original)
			take := func(name, container string) {
				t.Helper()
				if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: container, Name: name}); err != nil {
					t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
				}
			}
			clone := func(name, snap string, n int) []*snapshot.Container {
				t.Helper()
				made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: snap, Count: n, Name: name})
				if err != nil {
					t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
				}
				return made
			}
			take("first", "original")
			for _, c := range clone("clone", "first", 6) {
				checked(t, svc, c)
				if err := svc.Remove(ctx, c.ID, true); err != nil {
					t.Fatal(err)
				}
			}
			checked(t, svc, original)
			again := clone("again", "first", 1)[0]
			take("second", "again")
			checked(t, svc, clone("grandchild", "second", 1)[0])
			checked(t, svc, again)
			if err := svc.Remove(ctx, original.ID, true); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestShimKilledDuringFill kills the shim right after a clone. Nothing of the clone goes on, and it has never seen a wrong
// page. A clone that is not given enough memory is refused.
func TestShimKilledDuringFill(t *testing.T) {
	svc, in := open(t)
	ctx := t.Context()
	original, err := svc.Run(ctx, api.RunRequest{Name: "original", Rootfs: memoryRootfs(t), Args: []string{"/memory"}})
	if err != nil {
		t.Fatal(err)
	}
	checked(t, svc, original)
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: "original", Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	if err := svc.Remove(ctx, "original", true); err != nil {
		t.Fatal(err)
	}
	gone := func() error {
		if left := in.Left(); len(left) > 0 {
			return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
		}
		return nil
	}
	if err := eventually(ctx, gone); err != nil {
		t.Fatal(err)
	}

	_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Limits: &snapshot.Limits{MemoryBytes: 16 << 20}})
	if err == nil || !strings.Contains(err.Error(), "memory limit") || snapshot.HintOf(err) == "" {
		t.Errorf("a clone with too little memory: %v, hint %q", err, snapshot.HintOf(err))
	}
	for range 10 {
		made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 2})
		if err != nil {
			t.Fatal(err)
		}
		process, err := os.FindProcess(made[0].Pid) // by its pidfd
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(made[0].ShimPid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// Nobody but the kernel ends it: this comes before anything is repaired.
		if err := eventually(ctx, func() error {
			if process.Signal(syscall.Signal(0)) == nil && !zombie(made[0].Pid) {
				return fmt.Errorf("the clone outlives its shim")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		_ = process.Release()
		for _, c := range made {
			if s := status(svc, c); strings.HasPrefix(s, "bad") {
				t.Errorf("%s: %s", c.Name, s)
			}
		}
		for _, c := range made {
			if err := svc.Remove(ctx, c.ID, true); err != nil {
				t.Error(err)
			}
		}
		repairs(t, svc)
		if err := eventually(ctx, gone); err != nil {
			t.Fatal(err)
		}
	}
}

func zombie(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(after, "Z")
}

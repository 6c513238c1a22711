package api_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// tickingSnapshot is a snapshot, "snap", of a program that counts in a file. Nothing else is left in the installation.
func tickingSnapshot(t *testing.T, svc *api.Local) {
	t.Helper()
	c, err := svc.Run(t.Context(), api.RunRequest{Name: "original", Rootfs: testrootfs.Busybox(t),
		Args: []string{"sh", "-c", "mkfifo /f; exec 3<>/f; i=0; while :; do i=$((i+1)); echo $i > /tick; read -t 0.02 x <&3; done"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ticks(t.Context(), svc, c); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	if err := svc.Remove(t.Context(), c.ID, true); err != nil {
		t.Fatal(err)
	}
}

// burst asks for clones and calls kill with the pids of shim and template once some of them are there. It returns what the
// request says.
func burst(ctx context.Context, t *testing.T, svc *api.Local, n, after int, kill func(shim, template int)) ([]*snapshot.Container, error) {
	t.Helper()
	first := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "first", 1)[0]
	template := templateOf(t, first.ShimPid)
	type result struct {
		made []*snapshot.Container
		err  error
	}
	done := make(chan result, 1)
	go func() {
		made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: n, Name: "burst", Engine: snapshot.EngineTemplate})
		done <- result{made, err}
	}()
	if err := eventually(ctx, func() error {
		if got := runningOf(ctx, t, svc, "burst"); got < after {
			return fmt.Errorf("%d clones", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	kill(first.ShimPid, template)
	r := <-done
	return append(r.made, first), r.err
}

func runningOf(ctx context.Context, t *testing.T, svc *api.Local, prefix string) (n int) {
	t.Helper()
	cs, err := svc.Containers(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cs {
		if strings.HasPrefix(c.Name, prefix) && c.Status == snapshot.StatusRunning {
			n++
		}
	}
	return n
}

// TestTemplateShimKilled kills the shim in the middle of a burst of clones. What has been made is listed and can be
// removed, or is gone; of the rest, of the template and of what was made ahead nothing is left.
func TestTemplateShimKilled(t *testing.T) {
	svc, in := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tickingSnapshot(t, svc)
	for _, after := range []int{1, 30, 90} {
		made, err := burst(ctx, t, svc, 200, after, func(shim, _ int) { killProcess(t, shim) })
		if err == nil {
			t.Fatalf("200 clones were made although their shim was killed after %d", after)
		}
		repairs(t, svc)
		// It may run on, and then it is listed so; what is listed as running runs, once whoever adopts processes has
		// reaped the shim.
		var cs []*snapshot.Container
		if err := eventually(ctx, func() (err error) {
			if cs, err = svc.Containers(ctx, true); err != nil {
				return err
			}
			for _, c := range cs {
				if running := alive(c.Pid) && !zombie(c.Pid); running != (c.Status == snapshot.StatusRunning) {
					return fmt.Errorf("%s is listed as %s, and runs: %v", c.Name, c.Status, running)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		for _, c := range cs {
			if err := svc.Remove(ctx, c.ID, true); err != nil && snapshot.KindOf(err) != snapshot.KindNotFound {
				t.Errorf("remove %s: %v", c.Name, err)
			}
		}
		t.Logf("killed after %d clones: %d had been made, %d were listed", after, len(made), len(cs))
		repairs(t, svc)
		nothingLeft(ctx, t, in)
	}
	// And another shim makes clones as ever.
	again := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "again", 3)
	for _, c := range again {
		if err := ticks(ctx, svc, c); err != nil {
			t.Error(err)
		}
	}
}

// nothingLeft waits until nothing of the installation is on the host, and no template or sandbox in its directory.
func nothingLeft(ctx context.Context, t *testing.T, in *testhost.Installation) {
	t.Helper()
	if err := eventually(ctx, func() error {
		left := in.Left()
		for _, pattern := range []string{"templates/*", "containers/*", "slots/*/*"} {
			found, err := filepath.Glob(filepath.Join(in.Root, pattern))
			if err != nil {
				return err
			}
			left = append(left, found...)
		}
		leases, err := filepath.Glob(filepath.Join(in.Run, "network", "[0-9]*"))
		if left = append(left, leases...); err != nil || len(left) > 0 {
			return errors.Join(err, fmt.Errorf("%d things are left: %s", len(left), strings.Join(left[:min(len(left), 10)], "; ")))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return pid > 0 && err == nil
}

// TestTemplateKilled kills the template, twice, in the middle of a burst of clones. Those that have been made live on; the
// others fail or are made by another template, and in the end there is one.
func TestTemplateKilled(t *testing.T) {
	svc, _ := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tickingSnapshot(t, svc)
	killed := 0
	made, err := burst(ctx, t, svc, 120, 20, func(shim, template int) {
		killProcess(t, template)
		killed = template
	})
	if err != nil {
		t.Logf("of 120 clones: %v", err)
	}
	if len(made) < 21 {
		t.Errorf("there are %d clones", len(made))
	}
	listed, lerr := svc.Containers(ctx, true)
	if lerr != nil || len(listed) != len(made) {
		t.Errorf("%d clones were made, and %d are listed: %v", len(made), len(listed), lerr)
	}
	for _, c := range made {
		if err := ticks(ctx, svc, c); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	again := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "again", 2)
	if now := templateOf(t, again[0].ShimPid); now == killed || again[0].ShimPid != made[0].ShimPid {
		t.Errorf("the template is %d, having been %d, of the shim %d, having been %d", now, killed, again[0].ShimPid, made[0].ShimPid)
	}
	for _, c := range again {
		if err := ticks(ctx, svc, c); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

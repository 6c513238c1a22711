package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// steps lists the failpoints of a machine: before and after each of its effects.
func steps(prefix string, m *snapshot.Machine) []string {
	var names []string
	for _, e := range m.Effects() {
		names = append(names, prefix+"."+string(e), prefix+".after-"+string(e))
	}
	return names
}

// ticking is a container whose program counts, so that whether it runs can be seen.
func ticking(t *testing.T, svc *api.Local) *snapshot.Container {
	t.Helper()
	c, err := svc.Run(t.Context(), api.RunRequest{Name: "victim", Rootfs: testrootfs.Busybox(t), Network: "bridge",
		Args: []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tick; usleep 1000; done"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ticks(t.Context(), svc, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// ticks says whether the container's program runs.
func ticks(ctx context.Context, svc *api.Local, c *snapshot.Container) error {
	upper := filepath.Join("upper", "tick")
	dir := svc.ContainerDir(c.ID)
	before, _ := os.ReadFile(filepath.Join(dir, upper))
	return eventually(ctx, func() error {
		now, err := os.ReadFile(filepath.Join(dir, upper))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(now)) == 0 || bytes.Equal(now, before) {
			return fmt.Errorf("it stands still at %q", now)
		}
		return nil
	})
}

// with runs the command line with a failpoint armed and returns its output.
func with(t *testing.T, in *testhost.Installation, point, action string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := in.Command(ctx, args...)
	c.Env = append(c.Env, fault.Variable+"="+point+"="+action, "SNAPD_CTR_CRIU_PIDFILE="+filepath.Join(in.Run, "criu.pid"))
	out, err := c.CombinedOutput()
	return string(out), err
}

// TestCaptureInterrupted fails a capture, kills the process that captures, and kills CRIU under it, at every step. The
// container runs on, no half snapshot is visible, and the store is sound.
func TestCaptureInterrupted(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	criuPid := filepath.Join(in.Run, "criu.pid")
	for _, stop := range []bool{false, true} {
		for _, point := range steps("capture", snapshot.CaptureMachine(stop)) {
			for _, action := range []string{"error", "kill", "signal:" + criuPid} {
				if strings.HasPrefix(action, "signal") && !whileCRIURuns(point) {
					continue
				}
				name := fmt.Sprintf("%s/%s/stop=%v", point, strings.Split(action, ":")[0], stop)
				t.Run(name, func(t *testing.T) {
					args := []string{"snapshot", "victim", "snap"}
					if stop {
						args = append(args, "--stop")
					}
					out, err := with(t, in, point, action, args...)
					published := committed(point)
					if err == nil && action == "error" && !published {
						t.Fatalf("the capture succeeded: %s", out)
					}
					snaps, lerr := svc.Snapshots(t.Context())
					if lerr != nil {
						t.Fatal(lerr)
					}
					if !published && len(snaps) != 0 {
						t.Fatalf("a snapshot is visible: %v", snaps[0].Names)
					}
					for _, s := range snaps {
						if err := svc.VerifySnapshot(t.Context(), s.ID); err != nil {
							t.Fatal(err)
						}
						if err := svc.RemoveSnapshot(t.Context(), s.ID); err != nil {
							t.Fatal(err)
						}
					}
					if stop && published {
						c = again(t, svc)
						return
					}
					if err := ticks(t.Context(), svc, c); err != nil {
						t.Fatalf("the container does not run on: %v; the command said: %s", err, out)
					}
				})
			}
		}
	}
	repairs(t, svc)
}

// committed says whether a failpoint lies behind the point of no return of a capture.
func committed(point string) bool {
	return point == "capture.after-publish" || strings.HasSuffix(point, string(snapshot.EffectStopTask))
}

// whileCRIURuns says whether CRIU is there to be killed at a failpoint.
func whileCRIURuns(point string) bool {
	for _, p := range []string{"capture.after-dump", "capture.files", "capture.after-files", "capture.thaw"} {
		if point == p {
			return true
		}
	}
	return false
}

// again replaces the container after a capture that stopped it, or was about to.
func again(t *testing.T, svc *api.Local) *snapshot.Container {
	t.Helper()
	if err := svc.Remove(t.Context(), "victim", true); err != nil {
		t.Fatal(err)
	}
	return ticking(t, svc)
}

// TestCloneInterrupted fails a clone, kills the command line, the shim and CRIU at every step. Nothing is left of the
// clone, and the next clone works.
func TestCloneInterrupted(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap", Stop: true}); err != nil {
		t.Fatal(err)
	}
	if err := svc.Remove(t.Context(), c.ID, true); err != nil {
		t.Fatal(err)
	}
	points := append(steps("clone", snapshot.CloneMachine()), "clone.setup", "clone.ready")
	for _, point := range points {
		for _, action := range []string{"error", "kill", "signal:" + filepath.Join(in.Run, "criu.pid")} {
			criu := strings.HasPrefix(action, "signal")
			if criu && point != "clone.setup" && point != "clone.ready" {
				continue
			}
			t.Run(point+"/"+strings.Split(action, ":")[0], func(t *testing.T) {
				out, err := with(t, in, point, action, "clone", "snap", "--name", "x", "--engine", snapshot.EngineCRIU)
				if err == nil {
					t.Fatalf("the clone succeeded: %s", out)
				}
				if _, err := svc.Fsck(t.Context(), true); err != nil {
					t.Fatal(err)
				}
				if err := eventually(t.Context(), func() error {
					if left := in.Left(); len(left) > 0 {
						return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
	if got, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 1}); err != nil {
		t.Fatal(err)
	} else if err := ticks(t.Context(), svc, got[0]); err != nil {
		t.Fatal(err)
	}
}

// TestCommandLineKilledDuringClone kills the command line at any moment of a clone: the shim notices and undoes what is
// half made, or the clone is whole.
func TestCommandLineKilledDuringClone(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		cmd := in.Command(t.Context(), "clone", "snap", "-n", "3")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*12) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	repairs(t, svc)
	clones, err := svc.Containers(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clones {
		if err := ticks(t.Context(), svc, c); err != nil {
			t.Errorf("%s is listed and does not run: %v", c.Name, err)
		}
	}
}

// repairs has fsck clean up and checks that it finds nothing to do afterwards.
func repairs(t *testing.T, svc *api.Local) {
	t.Helper()
	err := eventually(t.Context(), func() error {
		if _, err := svc.Fsck(t.Context(), true); err != nil {
			return err
		}
		problems, err := svc.Fsck(t.Context(), false)
		if len(problems) > 0 {
			b, _ := json.Marshal(problems)
			return fmt.Errorf("fsck still finds %s", b)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func killProcess(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

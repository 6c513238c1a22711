package api_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// TestWaits clones a program whose threads are in every call that the kernel continues after a stop, its first thread in
// each of them in turn. In a clone, in a clone of a clone, and in what they were made of, none of these calls comes to an
// end.
func TestWaits(t *testing.T) {
	rootfs := t.TempDir()
	if err := os.CopyFS(rootfs, os.DirFS(testrootfs.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("cc", "-O1", "-static", "-pthread", "-o", filepath.Join(rootfs, "waits"), "testdata/waits.c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile waits.c: %v\n%s", err, out)
	}
	plugins := t.TempDir()
	if out, err := exec.Command("../../scripts/criu-plugin", plugins).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("SNAPD_CTR_CRIU_PLUGINS", plugins)
	for _, first := range []string{"nanosleep", "poll", "futex", "clock_nanosleep"} {
		t.Run(first, func(t *testing.T) {
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			c, err := svc.Run(ctx, api.RunRequest{Name: "original", Rootfs: rootfs, Args: []string{"/waits", first}})
			if err != nil {
				t.Fatal(err)
			}
			waitsOn(t, svc, c)
			for _, name := range []string{"clone", "grandchild"} {
				if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: c.ID, Name: "of-" + name}); err != nil {
					t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
				}
				made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "of-" + name, Count: 1, Name: name, Engine: snapshot.EngineCRIU})
				if err != nil {
					t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
				}
				waitsOn(t, svc, made[0])
				waitsOn(t, svc, c)
				c = made[0]
			}
		})
	}
}

// waitsOn waits until the program's other thread has counted for a while and then fails the test unless every thread is in
// its call: one whose call has returned ends the program.
func waitsOn(t *testing.T, svc *api.Local, c *snapshot.Container) {
	t.Helper()
	counted, last := 0, status(svc, c)
	err := eventually(t.Context(), func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", c.Pid)); err != nil || zombie(c.Pid) {
			return nil // and so in no call
		}
		if now := status(svc, c); now != last {
			counted, last = counted+1, now
		}
		if counted < 10 {
			return fmt.Errorf("counted %d times only", counted)
		}
		return inCalls(c.Pid)
	})
	if err == nil {
		err = inCalls(c.Pid)
	}
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

// inCalls returns an error unless threads of the process are in each of the calls of testdata/waits.c.
func inCalls(pid int) error {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	var all strings.Builder
	for _, f := range files {
		b, _ := os.ReadFile(f)
		all.WriteString("\n" + string(b))
	}
	const monotonic = "0x1"
	for name, line := range map[string]string{
		"nanosleep": "\n35 ", "poll": "\n7 ", "futex": "\n202 ", "clock_nanosleep": "\n230 " + monotonic + " ",
	} {
		if !strings.Contains(all.String(), line) {
			return errors.New("no thread is in " + name + all.String())
		}
	}
	return nil
}

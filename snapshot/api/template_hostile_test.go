package api_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// TestTemplateOfDevices has the program of a snapshot be, in the files that come with it, what a template must not open or
// must not wait for: the template is built with all powers, before a clone's cgroup keeps it from devices.
func TestTemplateOfDevices(t *testing.T) {
	for _, c := range []struct {
		name string
		mode uint32
		dev  int
		why  string
	}{
		{"disk", syscall.S_IFBLK | 0o777, diskOf(t), "permission denied"},
		{"memory", syscall.S_IFCHR | 0o777, 1<<8 | 1, "permission denied"},
		{"zero", syscall.S_IFCHR | 0o777, 1<<8 | 5, "permission denied"},
		{"fifo", syscall.S_IFIFO | 0o777, 0, "no such device"},
		{"link", syscall.S_IFLNK, 0, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc, in := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			rootfs := t.TempDir()
			if err := os.CopyFS(rootfs, os.DirFS(testrootfs.Busybox(t))); err != nil {
				t.Fatal(err)
			}
			made := snapshotOf(ctx, t, svc, "snap", api.RunRequest{Name: "original", Rootfs: rootfs, Args: []string{"sh", "-c", "echo ready; read x < /dev/zero"}})
			if err := svc.Remove(ctx, made.ID, true); err != nil {
				t.Fatal(err)
			}
			program := filepath.Join(rootfs, "bin", "busybox")
			if err := os.Remove(program); err != nil {
				t.Fatal(err)
			}
			err := syscall.Mknod(program, c.mode, c.dev)
			if c.mode == syscall.S_IFLNK {
				err = os.Symlink(filepath.Join(in.Root, "names.lock"), program) // a file of the host's
			}
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Engine: snapshot.EngineTemplate})
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("a clone: %v, want %q", err, c.why)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s to find that out", took)
			}
			if left, err := filepath.Glob(filepath.Join(in.Root, "templates", "*")); err != nil || len(left) > 0 {
				t.Errorf("left of templates: %v, %v", left, err)
			}
		})
	}
}

// diskOf is the device of the file system that this test is on.
func diskOf(t *testing.T) int {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(t.TempDir(), &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Dev)
}

// Package apitest opens services for tests, each in an installation of its own.
package apitest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// Config is the configuration of a service in an installation.
func Config(in *testhost.Installation) api.Config {
	return api.Config{Root: in.Root, Run: in.Run, CRIU: in.CRIU, Shim: in.Shim, Bridge: in.Bridge, Subnet: in.Subnet}
}

// Open opens a service of the test's own. At the end all its containers are removed and the store must be sound.
func Open(t testing.TB) (*api.Local, *testhost.Installation) {
	t.Helper()
	in := testhost.New(t)
	t.Setenv(shim.LingerVariable, "200ms")
	svc, err := api.OpenLocal(t.Context(), Config(in))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		left, err := svc.Containers(ctx, true)
		if err != nil {
			t.Error(err)
		}
		Remove(ctx, t, svc, left...)
		shims, _ := filepath.Glob(filepath.Join(in.Run, "shims", "*.log"))
		for _, name := range shims {
			if b, _ := os.ReadFile(name); t.Failed() && len(b) > 0 {
				t.Logf("%s:\n%s", filepath.Base(name), b)
			}
		}
		problems, err := svc.Fsck(ctx, false)
		if err != nil {
			t.Error(err)
		}
		for _, p := range problems {
			t.Errorf("fsck: %s: %s", p.Where, p.What)
		}
		svc.Close()
	})
	return svc, in
}

// Remove removes containers, whatever they do. When the test has failed it shows first what each has said last.
func Remove(ctx context.Context, t testing.TB, svc *api.Local, containers ...*snapshot.Container) {
	t.Helper()
	for _, c := range containers {
		if t.Failed() {
			var log bytes.Buffer
			_ = svc.Logs(ctx, c.ID, api.LogsRequest{Tail: 20, Stdout: &log, Stderr: &log})
			t.Logf("%s: %s, engine %q, %v, its log:\n%s", c.Name, c.Status, c.Engine, c.Args, log.String())
		}
		if err := svc.Remove(ctx, c.ID, true); err != nil && snapshot.KindOf(err) != snapshot.KindNotFound {
			t.Errorf("remove %s: %v", c.Name, err)
		}
	}
}

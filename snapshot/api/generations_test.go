package api_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

var engines = []string{snapshot.EngineTemplate, snapshot.EngineCRIU}

// TestGenerations snapshots clones, and clones of their snapshots, by either engine: what a program has written, to pages
// that began as those of its file, goes on from one to the next.
func TestGenerations(t *testing.T) {
	svc, _ := open(t)
	ctx := t.Context()
	parents := []*snapshot.Container{startGenerations(t, svc)}
	for generation := range 3 {
		var next []*snapshot.Container
		for i, parent := range parents {
			state := fmt.Sprintf("generation %d.%d", generation, i)
			become(t, svc, parent, state)
			name := fmt.Sprintf("snap-%d-%d", generation, i)
			take(t, svc, parent, name)
			for _, engine := range engines {
				c := cloneBy(t, svc, name, engine)
				is(t, svc, c, state)
				next = append(next, c)
			}
		}
		parents = next
	}
	for _, c := range parents {
		if err := svc.Kill(ctx, c.ID, "KILL"); err != nil {
			t.Error(err)
		}
	}
}

// TestGenerationsOfAServer does so with a program of many libraries and threads.
func TestGenerationsOfAServer(t *testing.T) {
	svc, _ := open(t)
	ctx := t.Context()
	c, err := svc.Run(ctx, api.RunRequest{Name: "server", Rootfs: testrootfs.Dir(t, testrootfs.PythonName),
		Args: []string{"python3", "/srv/server.py", "--mb", "8"}})
	if err != nil {
		t.Fatal(err)
	}
	count := counterAt("/value")
	for round, engine := range []string{snapshot.EngineTemplate, snapshot.EngineTemplate, snapshot.EngineCRIU, snapshot.EngineTemplate} {
		if err := eventually(ctx, func() error { return count(ctx, svc, c, round+1) }); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		name := fmt.Sprintf("snap-%d", round)
		take(t, svc, c, name)
		c = cloneBy(t, svc, name, engine)
	}
	if err := eventually(ctx, func() error { return count(ctx, svc, c, 5) }); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

// TestChangedProgram changes the file that a clone runs. As long as the container has the same bytes by that name the clone
// can be snapshotted.
func TestChangedProgram(t *testing.T) {
	svc, _ := open(t)
	ctx := t.Context()
	take(t, svc, startGenerations(t, svc), "snap")
	for name, c := range map[string]struct {
		change string
		fine   bool
	}{
		"touched":  {"touch /generations", true},
		"mode":     {"chmod 700 /generations", true},
		"copied":   {"cp /generations /new && mv /new /generations", true},
		"appended": {"echo >> /generations", false},
		"patched":  {"printf x | dd of=/generations bs=1 seek=4000 conv=notrunc && touch -d @0 /generations", false},
		"deleted":  {"rm /generations", false},
		"linked":   {"mv /generations /new && ln -s /new /generations", false},
	} {
		t.Run(name, func(t *testing.T) {
			clone := cloneBy(t, svc, "snap", snapshot.EngineTemplate)
			if out, err := execOutput(ctx, svc, clone, "sh", "-c", c.change); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			become(t, svc, clone, name)
			if c.fine {
				take(t, svc, clone, "snap-"+name)
				for _, engine := range engines {
					is(t, svc, cloneBy(t, svc, "snap-"+name, engine), name)
				}
				return
			}
			_, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: clone.ID, Name: "snap-" + name})
			if snapshot.KindOf(err) != snapshot.KindUncloneable || !strings.Contains(err.Error(), "/generations") {
				t.Errorf("the error is %v", err)
			}
			become(t, svc, clone, name+" and goes on")
		})
	}
}

func startGenerations(t *testing.T, svc *api.Local) *snapshot.Container {
	t.Helper()
	rootfs := t.TempDir()
	if err := os.CopyFS(rootfs, os.DirFS(testrootfs.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("cc", "-O1", "-static", "-o", filepath.Join(rootfs, "generations"), "testdata/generations.c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	c, err := svc.Run(t.Context(), api.RunRequest{Name: "first", Rootfs: rootfs, Args: []string{"/generations"}})
	if err != nil {
		t.Fatal(err)
	}
	is(t, svc, c, "born")
	return c
}

// become tells the program in a container what it is from now on.
func become(t *testing.T, svc *api.Local, c *snapshot.Container, what string) {
	t.Helper()
	if out, err := execOutput(t.Context(), svc, c, "sh", "-c", `echo -n "$1" > /said; mv /said /become`, "sh", what); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	is(t, svc, c, what)
}

// is waits until the program in a container says what it is, and not only a file of the snapshot.
func is(t *testing.T, svc *api.Local, c *snapshot.Container, what string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := eventually(ctx, func() error {
		out, err := execOutput(ctx, svc, c, "sh", "-c", "rm -f /am; while ! test -e /am; do usleep 2000; done; cat /am")
		if err == nil && out != what {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s is not %q: %v", c.Name, what, err)
	}
}

func take(t *testing.T, svc *api.Local, c *snapshot.Container, name string) {
	t.Helper()
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: name}); err != nil {
		t.Fatalf("snapshot of %s: %v\n%s", c.Name, err, snapshot.LogOf(err))
	}
}

// cloneBy makes one clone, by an engine.
func cloneBy(t *testing.T, svc *api.Local, snap, engine string) *snapshot.Container {
	t.Helper()
	cs, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: snap, Count: 1, Engine: engine})
	if err != nil {
		t.Fatalf("clone of %s by %s: %v\n%s", snap, engine, err, snapshot.LogOf(err))
	}
	return cs[0]
}

package api_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// shimEnds waits until the shim of a snapshot's clones has ended.
func shimEnds(ctx context.Context, in *testhost.Installation, id string) error {
	return eventually(ctx, func() error {
		path := filepath.Join(in.Run, "shims", "snapshot-"+snapshot.ShortID(id)+".sock")
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there (%w)", path, err)
		}
		return nil
	})
}

// onlyTemplate returns the one template that is listed.
func onlyTemplate(ctx context.Context, svc *api.Local) (*api.Template, error) {
	all, err := svc.Templates(ctx)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("%d templates are listed", len(all))
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// TestTemplatePinned takes a pinned template through its life: it stays without clones, is built again when it is killed,
// and its clones outlive it.
func TestTemplatePinned(t *testing.T) {
	svc, in := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tickingSnapshot(t, svc)
	built, fresh, err := svc.BuildTemplate(ctx, "snap")
	if err != nil {
		t.Fatalf("%v (%s)", err, snapshot.HintOf(err))
	}
	if !fresh || built.Pid == 0 || built.State != snapshot.TemplatePinned || built.BuildMS <= 0 || built.ResidentBytes <= 0 || built.Clones != 0 ||
		!slices.Equal(built.Names, []string{"snap"}) {
		t.Errorf("built: %+v, fresh %v", built, fresh)
	}
	again, fresh, err := svc.BuildTemplate(ctx, "snap")
	if err != nil || fresh || again.Pid != built.Pid {
		t.Errorf("built again: %+v, fresh %v, %v", again, fresh, err)
	}

	// A shim that has nothing to stay for ends after a while; by then the pinned one has been idle for longer.
	other := anotherSnapshot(t, svc)
	c := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "other", "o", 1)[0]
	if err := svc.Remove(ctx, c.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := shimEnds(ctx, in, other); err != nil {
		t.Fatal(err)
	}
	if now, err := onlyTemplate(ctx, svc); err != nil || now.Pid != built.Pid || now.State != snapshot.TemplatePinned {
		t.Errorf("without clones: %+v, %v", now, err)
	}

	clone := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "one", 1)[0]
	killProcess(t, built.Pid)
	var second *api.Template
	if err := eventually(ctx, func() (err error) {
		if second, err = onlyTemplate(ctx, svc); err == nil && (second.Pid == 0 || second.Pid == built.Pid) {
			err = fmt.Errorf("the template is %d, having been %d", second.Pid, built.Pid)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if second.Clones != 2 || second.State != snapshot.TemplatePinned {
		t.Errorf("built in the background: %+v", second)
	}
	clones := append(clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "two", 1), clone)
	for _, c := range clones {
		if err := ticks(ctx, svc, c); err != nil {
			t.Errorf("%s, whose template was killed: %v", c.Name, err)
		}
	}

	if err := svc.RemoveTemplate(ctx, "snap"); err != nil {
		t.Fatal(err)
	}
	if all, err := svc.Templates(ctx); err != nil || len(all) != 0 {
		t.Errorf("after its removal: %+v, %v", all, err)
	}
	refused(t, svc.RemoveTemplate(ctx, "snap"), snapshot.KindNotFound, "no template")
	for _, c := range clones {
		if err := ticks(ctx, svc, c); err != nil {
			t.Errorf("%s, whose template was removed: %v", c.Name, err)
		}
	}
	for _, c := range clones {
		if err := svc.Remove(ctx, c.ID, true); err != nil {
			t.Error(err)
		}
	}
	if err := shimEnds(ctx, in, built.Snapshot); err != nil {
		t.Error(err)
	}
	refused(t, svc.RemoveTemplate(ctx, "snap"), snapshot.KindNotFound, "no template")
}

// anotherSnapshot makes the snapshot "other" of a clone of "snap", and returns its id.
func anotherSnapshot(t *testing.T, svc *api.Local) string {
	t.Helper()
	c := clonesBy(t.Context(), t, svc, snapshot.EngineTemplate, "snap", "donor", 1)[0]
	got, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if err := svc.Remove(t.Context(), c.ID, true); err != nil {
		t.Fatal(err)
	}
	return got.Snapshot.ID
}

// TestTemplateKeepsSnapshot deletes a snapshot whose template is pinned: only once it no longer is.
func TestTemplateKeepsSnapshot(t *testing.T) {
	svc, in := open(t)
	tickingSnapshot(t, svc)
	built, _, err := svc.BuildTemplate(t.Context(), "snap")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, svc.RemoveSnapshot(t.Context(), "snap"), snapshot.KindState, "pinned")
	if err := svc.RemoveTemplate(t.Context(), "snap"); err != nil {
		t.Fatal(err)
	}
	if err := svc.RemoveSnapshot(t.Context(), "snap"); err != nil {
		t.Error(err)
	}
	refused(t, svc.RemoveTemplate(t.Context(), "snap"), snapshot.KindNotFound, "snap")
	if err := shimEnds(t.Context(), in, built.Snapshot); err != nil {
		t.Error(err)
	}
}

// TestTemplateRefused asks for templates that there cannot be.
func TestTemplateRefused(t *testing.T) {
	svc, in := open(t)
	c, err := svc.Run(t.Context(), api.RunRequest{Rootfs: testrootfs.Busybox(t), Args: []string{"sh", "-c", "true & exec sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := eventually(t.Context(), func() error { return zombies(t.Context(), svc, c, 1) }); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "two"}); err != nil {
		t.Fatal(err)
	}
	_, _, err = svc.BuildTemplate(t.Context(), "none")
	refused(t, err, snapshot.KindNotFound, "none")
	s, err := svc.InspectSnapshot(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = svc.BuildTemplate(t.Context(), "two")
	refused(t, err, snapshot.KindUncloneable, "template build two", "is a zombie")
	if hint := snapshot.HintOf(err); !strings.Contains(hint, "--engine criu two") || !strings.Contains(hint, "snapshots inspect two") {
		t.Errorf("hint: %s", hint)
	}
	if err := shimEnds(t.Context(), in, s.Snapshot.ID); err != nil {
		t.Errorf("a shim was started for nothing: %v", err)
	}
}

// TestTemplateHostCannot has hosts that lack what templates need: CRIU makes the clones, and they say why.
func TestTemplateHostCannot(t *testing.T) {
	for _, c := range []struct{ name, variable, value, says string }{
		{"no stub", "SNAPD_CTR_STUB", "/nowhere/snapd-ctr-stub", "/nowhere/snapd-ctr-stub: it is not installed"},
		{"stub that is no program", "SNAPD_CTR_STUB", "/etc/passwd", "/etc/passwd: it cannot be run"},
		{"no CLONE_PARENT", fault.Variable, "probe.clone-parent=error", "clone-parent: "},
		{"no time namespaces", fault.Variable, "probe.namespace-time=error", "namespace-time: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc, _ := open(t)
			tickingSnapshot(t, svc)
			t.Setenv(c.variable, c.value)
			_, _, err := svc.BuildTemplate(t.Context(), "snap")
			refused(t, err, snapshot.KindUnsupported, "template build snap", c.says)
			if !strings.Contains(snapshot.HintOf(err), "by the engine criu") {
				t.Errorf("hint: %s", snapshot.HintOf(err))
			}
			_, err = svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 1, Engine: snapshot.EngineTemplate})
			refused(t, err, snapshot.KindUnsupported, c.says)
			made, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 2})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range made {
				if m.Engine != snapshot.EngineCRIU || !strings.Contains(m.EngineWhy, c.says) {
					t.Errorf("made by %s, since %q", m.Engine, m.EngineWhy)
				}
				if err := ticks(t.Context(), svc, m); err != nil {
					t.Error(err)
				}
			}
			if all, err := svc.Templates(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("templates: %+v, %v", all, err)
			}
		})
	}
}

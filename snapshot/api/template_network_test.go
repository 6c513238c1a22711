package api_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// TestTemplateNetworks makes and removes clones one after the other: they have networks that were others' before, each with an
// address that the one before did not have, and all of them answer.
func TestTemplateNetworks(t *testing.T) {
	t.Setenv("SNAPD_CTR_SLOTS", "2")
	svc, _ := open(t)
	c, err := svc.Run(t.Context(), api.RunRequest{Name: "web", Rootfs: testrootfs.Dir(t, testrootfs.PythonName), Args: []string{"python3", "/srv/server.py"}})
	if err != nil {
		t.Fatal(err)
	}
	answers := func(c *snapshot.Container) error {
		return eventually(t.Context(), func() error {
			_, err := get(c, "/healthz")
			return err
		})
	}
	if err := answers(c); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: "web", Name: "snap", Stop: true}); err != nil {
		t.Fatal(err)
	}
	seen, again, last := make(map[string]bool), 0, ""
	for range 12 {
		made, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 1, Engine: snapshot.EngineTemplate})
		if err != nil {
			t.Fatal(err)
		}
		clone := made[0]
		if err := answers(clone); err != nil {
			t.Errorf("%s at %s: %v", clone.Name, clone.Network.Address, err)
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", clone.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if seen[ns] {
			again++
		}
		seen[ns] = true
		if address := clone.Network.Address.String(); address == last {
			t.Errorf("%s has the address %s, which the clone before it had", clone.Name, address)
		} else {
			last = address
		}
		if err := svc.Remove(t.Context(), clone.ID, true); err != nil {
			t.Fatal(err)
		}
	}
	if again == 0 {
		t.Error("no network was used again")
	}
	t.Logf("%d of 12 networks were others' before", again)
}

// TestTemplateSlotsInVain claims sandboxes for clones that cannot be made, since one of them has a name that is taken. The
// shim finds out, and makes others.
func TestTemplateSlotsInVain(t *testing.T) {
	t.Setenv("SNAPD_CTR_SLOTS", "2")
	svc, in := open(t)
	c := sleeping(t, svc, "web")
	taken, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap", Stop: true})
	if err != nil {
		t.Fatal(err)
	}
	clone := func(name string, n int) error {
		_, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Name: name, Count: n, Engine: snapshot.EngineTemplate})
		return err
	}
	if err := clone("a-2", 1); err != nil {
		t.Fatal(err)
	}
	ready := func() error {
		ids, err := shim.Slots(in.Root, taken.Snapshot.ID)
		if err == nil && len(ids) < 2 {
			err = fmt.Errorf("%d sandboxes are ready", len(ids))
		}
		return err
	}
	for range 4 {
		if err := eventually(t.Context(), ready); err != nil {
			t.Fatal(err)
		}
		if err := clone("a", 2); snapshot.KindOf(err) != snapshot.KindExists {
			t.Fatalf("with a name that is taken: %v", err)
		}
		if err := clone("", 1); err != nil { // which has the shim look
			t.Fatal(err)
		}
	}
	if err := eventually(t.Context(), ready); err != nil {
		t.Error(err)
	}
}

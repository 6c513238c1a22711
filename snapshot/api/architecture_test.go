package api

import (
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestForeignArchitecture refuses to clone what another kind of machine captured, and what its engine cannot clone.
func TestForeignArchitecture(t *testing.T) {
	s := &snapshot.Snapshot{ID: "sha256:00", Config: snapshot.Config{Architecture: "arm64",
		Engines: []snapshot.Verdict{{Engine: snapshot.EngineCRIU, OK: true}}}}
	if err := checkSnapshot(s, "auto", "amd64"); snapshot.KindOf(err) != snapshot.KindIncompatible || snapshot.HintOf(err) == "" {
		t.Errorf("of another architecture: %v", err)
	}
	if err := checkSnapshot(s, "auto", "arm64"); err != nil {
		t.Errorf("of its own architecture: %v", err)
	}
	s.Config.Engines[0] = snapshot.Verdict{Engine: snapshot.EngineCRIU, Why: []string{"descriptor 9 is io_uring"}}
	if err := checkSnapshot(s, "auto", "arm64"); snapshot.KindOf(err) != snapshot.KindUncloneable {
		t.Errorf("not cloneable: %v", err)
	}
}

package template

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

func TestNextPause(t *testing.T) {
	var pause, all time.Duration
	for range 20 {
		before := pause
		if pause = nextPause(pause, false); pause <= before && pause != steadyLife || pause > steadyLife {
			t.Fatalf("%s after %s", pause, before)
		}
		all += pause
	}
	if all < time.Minute {
		t.Errorf("a template that dies at once is built 20 times in %s", all)
	}
	if got := nextPause(pause, true); got != 0 {
		t.Errorf("%s after one that lived long", got)
	}
}

// TestPinWithoutTemplate has a host that cannot: nothing is pinned, and the host is asked once.
func TestPinWithoutTemplate(t *testing.T) {
	asked := 0
	e := &Engine{Check: func(context.Context) error {
		asked++
		return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "template engine", Err: errors.New("no such call")}
	}}
	if e.Pinned() || len(e.Templates()) != 0 {
		t.Errorf("from the start: pinned %v, %v", e.Pinned(), e.Templates())
	}
	r := shim.CloneRequest{Record: snapshot.Container{Snapshot: "sha256:1"}, Images: "/images"}
	for range 2 {
		if _, _, err := e.Pin(t.Context(), r); snapshot.KindOf(err) != snapshot.KindUnsupported {
			t.Errorf("pinned: %v", err)
		}
	}
	if asked != 1 || e.Pinned() || len(e.Templates()) != 0 {
		t.Errorf("asked %d times, pinned %v, %v", asked, e.Pinned(), e.Templates())
	}
	if was, err := e.Remove("sha256:1"); was || err != nil {
		t.Errorf("removed: %v, %v", was, err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestCheckAgain has a check that could not find out: it is asked again.
func TestCheckAgain(t *testing.T) {
	asked := 0
	e := &Engine{Check: func(context.Context) error {
		asked++
		return errors.New("cancelled")
	}}
	for range 2 {
		if err := e.able(t.Context()); err == nil {
			t.Error("able")
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}

func TestTryStub(t *testing.T) {
	for _, path := range []string{"/nowhere/stub", "/etc/passwd"} {
		if err := TryStub(t.Context(), path); snapshot.KindOf(err) != snapshot.KindUnsupported || snapshot.HintOf(err) == "" {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := TryStub(t.Context(), "/bin/true"); err == nil || snapshot.KindOf(err) == snapshot.KindUnsupported {
		t.Errorf("a program that says nothing: %v", err)
	}
}

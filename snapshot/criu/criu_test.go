package criu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func logOf(err error) string { return snapshot.LogOf(err) }

func mustRestore(t *testing.T, v *victim, o RestoreOptions) *Restored {
	t.Helper()
	r, err := v.tool.Restore(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	t.Cleanup(func() { _ = reap(r.Pid) })
	return r
}

func TestVersionAndCheck(t *testing.T) {
	tool := findTool(t)
	v, err := tool.Version(t.Context())
	ok(t, err)
	if !strings.HasPrefix(v, "4.") {
		t.Errorf("version %q", v)
	}
	ok(t, tool.Check(t.Context()))
	err = Tool{Path: "/does/not/exist"}.Check(t.Context())
	if snapshot.KindOf(err) != snapshot.KindUnsupported || snapshot.HintOf(err) == "" {
		t.Errorf("missing binary: %v", err)
	}
	if err := (Tool{Path: "/bin/true"}).Check(t.Context()); snapshot.KindOf(err) != snapshot.KindUnsupported {
		t.Errorf("not a criu: %v", err)
	}
}

func TestDumpAndRestore(t *testing.T) {
	v := newVictim(t, "network", 8)
	before := v.sums(v.pid)
	v.dump(t.Context())
	if got := v.sums(v.pid); got != before {
		t.Errorf("memory of the original changed from %s to %s", before, got)
	}
	v.end()
	var setup, ready int
	o := v.restoreOptions()
	o.OnSetup = func(pid int) error { setup = pid; return nil }
	o.OnReady = func(pid int) error { ready = pid; return nil }
	r := mustRestore(t, v, o)
	if setup != r.Pid || ready != r.Pid {
		t.Errorf("setup saw %d, ready %d, the init is %d", setup, ready, r.Pid)
	}
	children, err := proc.Children(os.Getpid())
	ok(t, err)
	found := false
	for _, c := range children {
		found = found || c == r.Pid
	}
	if !found {
		t.Errorf("%d is no child of ours", r.Pid)
	}
	if got := v.sums(r.Pid); got != before {
		t.Errorf("memory is %s, was %s", got, before)
	}
	ok(t, syscall.Kill(r.Pid, syscall.SIGKILL))
	var ws syscall.WaitStatus
	if pid, err := syscall.Wait4(r.Pid, &ws, 0, nil); pid != r.Pid || ws.Signal() != syscall.SIGKILL {
		t.Errorf("wait: %d, %v, %v", pid, ws, err)
	}
	t.Log(r.Phases)
}

func TestRollback(t *testing.T) {
	v := newVictim(t, "", 1)
	before := v.sums(v.pid)
	o := v.dumpOptions()
	o.LeaveRunning = false
	d, err := v.tool.Dump(t.Context(), o)
	ok(t, err)
	if s, _ := proc.State(v.pid); s != 't' {
		t.Errorf("state %c between dump and verdict", s)
	}
	ok(t, d.Rollback())
	if got := v.sums(v.pid); got != before {
		t.Errorf("memory changed from %s to %s", before, got)
	}
}

func TestFinishEndsTasks(t *testing.T) {
	v := newVictim(t, "", 1)
	o := v.dumpOptions()
	o.LeaveRunning = false
	d, err := v.tool.Dump(t.Context(), o)
	ok(t, err)
	_, err = d.Finish()
	ok(t, err)
	if !gone(v.pid) {
		t.Error("the original goes on")
	}
}

func TestNotificationErrorsEndTheRestore(t *testing.T) {
	v := newVictim(t, "", 1)
	v.dump(t.Context())
	v.end()
	no := errors.New("not here")
	for name, o := range map[string]RestoreOptions{
		"setup": {OnSetup: func(int) error { return no }},
		"ready": {OnReady: func(int) error { return no }},
	} {
		full := v.restoreOptions()
		full.OnSetup, full.OnReady = o.OnSetup, o.OnReady
		r, err := v.tool.Restore(t.Context(), full)
		if !errors.Is(err, no) || r != nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		noChildren(t)
	}
}

// noChildren fails the test if this process has any child.
func noChildren(t *testing.T) {
	t.Helper()
	eventually(t, func() bool {
		c, err := proc.Children(os.Getpid())
		ok(t, err)
		return len(c) == 0
	})
}

func TestWarm(t *testing.T) {
	v := newVictim(t, "", 1)
	dir := filepath.Join(t.TempDir(), "cache")
	warm, err := v.tool.Warm(t.Context(), dir)
	ok(t, err)
	if fi, err := os.Stat(warm.Kerndat); err != nil || fi.Size() == 0 {
		t.Fatalf("no cache: %v", err)
	}
	again, err := v.tool.Warm(t.Context(), dir)
	if err != nil || again.Kerndat != warm.Kerndat {
		t.Errorf("second time: %v, %v", again, err)
	}
	before := v.sums(v.pid)
	v.tool = warm
	v.dump(t.Context())
	v.end()
	r := mustRestore(t, v, v.restoreOptions())
	if got := v.sums(r.Pid); got != before {
		t.Errorf("memory is %s, was %s", got, before)
	}
	ok(t, os.WriteFile(warm.Kerndat, []byte("stale"), 0o600))
	if _, err := warm.Version(t.Context()); err != nil {
		t.Errorf("with a damaged cache: %v", err)
	}
}

func TestCancelledDump(t *testing.T) {
	v := newVictim(t, "", 256)
	before := v.sums(v.pid)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for s := byte(0); s != 't'; s, _ = proc.State(v.pid) {
			if gone(v.pid) {
				return
			}
		}
		cancel(why)
	}()
	_, err := v.tool.Dump(ctx, v.dumpOptions())
	<-stopped
	if !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	if got := v.sums(v.pid); got != before {
		t.Errorf("memory changed from %s to %s", before, got)
	}
}

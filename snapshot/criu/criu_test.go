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
	tool := findTool(t)
	dir := filepath.Join(t.TempDir(), "state")
	ok(t, tool.Warm(t.Context(), dir))
	notes, err := filepath.Glob(filepath.Join(dir, "criu-*"))
	if err != nil || len(notes) != 1 {
		t.Fatalf("notes: %v, %v", notes, err)
	}
	if cache := compiledCache(tool.Path); keepsCache(filepath.Dir(cache)) {
		if fi, err := os.Stat(cache); err != nil || fi.Size() == 0 {
			t.Errorf("CRIU has no cache at %s: %v", cache, err)
		}
	}
	// With the note there, nothing is run again: a tool that cannot run does not matter.
	broken := tool
	broken.Launch = func(func() error) error { return errors.New("started") }
	ok(t, broken.Warm(t.Context(), dir))
	if err := (Tool{Path: filepath.Join(dir, "none")}).Warm(t.Context(), dir); snapshot.KindOf(err) != snapshot.KindUnsupported {
		t.Errorf("a tool that is not there: %v", err)
	}
}

// keepsCache says whether CRIU keeps a cache in dir: a tmpfs.
func keepsCache(dir string) bool {
	const tmpfs = 0x01021994
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && st.Type == tmpfs
}

func TestCacheDirectoryOfOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	ok(t, ownCacheDir(dir))
	ok(t, ownCacheDir(dir))
	ok(t, os.Chmod(dir, 0o777))
	if err := ownCacheDir(dir); snapshot.KindOf(err) != snapshot.KindUnsupported {
		t.Errorf("a directory that all can write to: %v", err)
	}
	ok(t, os.Chmod(dir, 0o700))
	ok(t, os.Chown(dir, 65534, 65534))
	if err := ownCacheDir(dir); snapshot.KindOf(err) != snapshot.KindUnsupported {
		t.Errorf("a directory of somebody else: %v", err)
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

package criu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// killer returns a function that kills the criu whose pid is written to the returned file.
func killer(t *testing.T) (pidFile string, kill func()) {
	pidFile = filepath.Join(t.TempDir(), "pid")
	return pidFile, func() {
		var pid int
		for deadline := time.Now().Add(10 * time.Second); pid == 0 && time.Now().Before(deadline); {
			b, _ := os.ReadFile(pidFile)
			pid, _ = strconv.Atoi(string(b))
		}
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// A criu that is killed leaves a task dead now and then, whatever anybody does: at the moments in which the task is about
// to run what criu has put into it. Then the error must say so; at any other moment the task must run on unharmed.
func TestCRIUDiesDuringDump(t *testing.T) {
	survived := 0
	for i := range 12 {
		v := newVictim(t, "", 16)
		before := v.sums(v.pid)
		o := v.dumpOptions()
		var kill func()
		o.PidFile, kill = killer(t)
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			for s := byte(0); i > 0 && s != 't' && !gone(v.pid); s, _ = proc.State(v.pid) {
			}
			time.Sleep(time.Duration(i*i/2) * time.Millisecond) // not to wait for anything, but to hit different steps
			kill()
		}()
		d, err := v.tool.Dump(t.Context(), o)
		<-killed
		if err == nil { // the kill came after the last step of Dump
			_, err = d.Finish()
		}
		if !errors.Is(err, errDied) {
			t.Errorf("kill %d: error %v", i, err)
		}
		if err != nil && strings.Contains(err.Error(), "did not survive") {
			t.Logf("kill %d: %v", i, err)
			continue
		}
		survived++
		if got := v.sums(v.pid); got != before {
			t.Fatalf("kill %d: memory changed from %s to %s", i, before, got)
		}
		v.images = t.TempDir()
		v.dump(t.Context())
		v.end()
	}
	if survived < 6 {
		t.Errorf("only %d of 12 survived", survived)
	}
}

func TestCRIUDiesBetweenDumpAndVerdict(t *testing.T) {
	v := newVictim(t, "", 1)
	for name, verdict := range map[string]func(*Dump) error{
		"finish":   func(d *Dump) error { _, err := d.Finish(); return err },
		"rollback": (*Dump).Rollback,
	} {
		o := v.dumpOptions()
		var kill func()
		o.PidFile, kill = killer(t)
		d, err := v.tool.Dump(t.Context(), o)
		ok(t, err)
		kill()
		if err := verdict(d); !errors.Is(err, errDied) {
			t.Errorf("%s: %v", name, err)
		}
		v.sums(v.pid)
	}
}

func TestCRIUDiesDuringRestore(t *testing.T) {
	v := newVictim(t, "", 32)
	before := v.sums(v.pid)
	v.dump(t.Context())
	v.end()
	for _, when := range []string{"early", "setup", "ready"} {
		o := v.restoreOptions()
		var kill func()
		o.PidFile, kill = killer(t)
		at := func(moment string) func(int) error {
			return func(int) error {
				if moment == when {
					kill()
				}
				return nil
			}
		}
		o.OnSetup, o.OnReady = at("setup"), at("ready")
		if when == "early" {
			go kill()
		}
		if r, err := v.tool.Restore(t.Context(), o); !errors.Is(err, errDied) {
			t.Errorf("%s: %v, %v", when, r, err)
		}
		noChildren(t)
	}
	r := mustRestore(t, v, v.restoreOptions())
	if got := v.sums(r.Pid); got != before {
		t.Errorf("memory is %s, was %s", got, before)
	}
}

// Kills at arbitrary moments between the fork of the root task and its first notification.
func TestCRIUDiesAnywhereInRestore(t *testing.T) {
	v := newVictim(t, "", 8)
	v.dump(t.Context())
	v.end()
	for after := range 40 {
		o := v.restoreOptions()
		var kill func()
		o.PidFile, kill = killer(t)
		timer := time.AfterFunc(time.Duration(after)*2*time.Millisecond, kill)
		r, err := v.tool.Restore(t.Context(), o)
		timer.Stop()
		switch {
		case err == nil:
			ok(t, reap(r.Pid))
		case !errors.Is(err, errDied):
			t.Errorf("killed after %d ms: %v", 2*after, err)
		}
		noChildren(t)
	}
}

func TestCancelledRestore(t *testing.T) {
	v := newVictim(t, "", 8)
	v.dump(t.Context())
	v.end()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	o := v.restoreOptions()
	o.OnSetup = func(int) error { cancel(why); return nil }
	if r, err := v.tool.Restore(ctx, o); !errors.Is(err, why) {
		t.Errorf("%v, %v", r, err)
	}
	noChildren(t)
}

func TestNoDescriptorLeaks(t *testing.T) {
	v := newVictim(t, "", 1)
	netns := freshNetns(t)
	cycle := func() {
		o := v.dumpOptions()
		o.Images = t.TempDir()
		d, err := v.tool.Dump(t.Context(), o)
		ok(t, err)
		ok(t, d.Rollback())
		v.images = t.TempDir()
		v.dump(t.Context())
		r := v.restoreOptions()
		r.Inherit[0].File = netns
		r.OnReady = func(int) error { return errors.New("no") }
		_, _ = v.tool.Restore(t.Context(), r)
		_, _ = ElideZeros(v.images)
		_ = useAll(v.images)
	}
	cycle()
	open := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		ok(t, err)
		return len(e)
	}
	before := open()
	for range 5 {
		cycle()
	}
	// Closing happens at the end of goroutines too; restoreOptions makes a network namespace each time, closed by the test's end.
	eventually(t, func() bool { return open() <= before+5 })
}

// What criu has said is heard however long it has been gone, also where somebody else holds its end of the socket.
func TestLastWords(t *testing.T) {
	for range 100 {
		ours, theirs, err := socketpair()
		if err != nil {
			t.Fatal(err)
		}
		s := &session{conn: ours, done: make(chan struct{})}
		said, err := proto.Marshal(&rpc.CriuResp{Type: rpc.CriuReqType_VERSION.Enum(), Success: new(true)})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := theirs.Write(said); err != nil {
				t.Fatal(err)
			}
		}
		close(s.done)
		for range 2 {
			if m, err := s.recv(t.Context()); err != nil || m.resp.GetType() != rpc.CriuReqType_VERSION {
				t.Errorf("heard %v, %v", m.resp, err)
			}
		}
		if _, err := s.recv(t.Context()); !errors.Is(err, errDied) {
			t.Errorf("when all is heard: %v", err)
		}
		ours.Close()
		theirs.Close()
	}
}

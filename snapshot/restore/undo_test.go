package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

var errBroken = errors.New("broken")

// failing is a session whose step fail fails once it is done, and the transcript of what is done and undone.
func failing(t *testing.T, fail snapshot.Effect) (*session, *strings.Builder) {
	t.Helper()
	dir := t.TempDir()
	s := &session{Engine: &Engine{Tool: criu.Tool{Path: "/bin/false"}, Root: dir}, id: "x", dir: dir, work: filepath.Join(dir, "criu"),
		r: shim.CloneRequest{Lower: []string{t.TempDir()}, Images: t.TempDir(), Config: snapshot.Config{NetnsKey: "net"},
			Record: snapshot.Container{Cgroup: fmt.Sprintf("/restore-test-%d/x", os.Getpid()), Network: snapshot.Network{Mode: "none"}}}}
	var transcript strings.Builder
	actions := s.actions()
	m := snapshot.CloneMachine()
	for e, do := range actions {
		actions[e] = func(ctx context.Context) error {
			verb, note := "do  ", ""
			if m.Undoing() {
				verb = "undo"
			}
			err := do(ctx)
			if e == fail {
				err, note = errors.Join(err, errBroken), "  ! fails"
			}
			fmt.Fprintf(&transcript, "  %s %s%s\n", verb, e, note)
			return err
		}
	}
	s.run = snapshot.NewExecution(m, actions)
	return s, &transcript
}

// TestUndo has each step of a clone fail in turn, with real effects. It is undone as the machine's transcripts say, and
// nothing is left.
func TestUndo(t *testing.T) {
	probetest.Need(t, "privileges")
	transcripts, err := os.ReadFile("../testdata/clone.txt")
	if err != nil {
		t.Fatal(err)
	}
	warm, _ := failing(t, snapshot.EffectRestore)
	_ = warm.run.Do(t.Context()) // libraries keep some descriptors that they open on first use
	warm.closeOurEnds()
	for _, fail := range snapshot.CloneMachine().Effects() {
		t.Run(string(fail), func(t *testing.T) {
			s, transcript := failing(t, fail)
			before := descriptors(t)
			if err := s.run.Do(t.Context()); !errors.Is(err, errBroken) {
				t.Errorf("error %v", err)
			}
			s.closeOurEnds()
			if want := fmt.Sprintf("\n%s fails\n%s  = undone\n", fail, transcript); !strings.Contains(string(transcripts), want) {
				t.Errorf("not as in the transcripts:%s", want)
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || strings.Contains(string(mounts), s.dir) {
				t.Errorf("mounts are left: %v\n%s", err, mounts)
			}
			for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
				if left, _ := filepath.Glob(pattern + filepath.Dir(s.r.Record.Cgroup)); len(left) > 0 {
					t.Errorf("cgroups are left: %v", left)
				}
			}
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

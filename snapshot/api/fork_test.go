package api_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// TestFork forks a container that counts: memory and file of each clone are of one instant, and the original goes on.
func TestFork(t *testing.T) {
	svc, _ := open(t)
	const program = `i=0; while :; do i=$((i+1)); echo $i > /count; [ $i = $(cat /count) ] || exit 9; sleep 0.01; done`
	c, err := svc.Run(t.Context(), api.RunRequest{Name: "agent", Rootfs: testrootfs.Busybox(t), Args: []string{"sh", "-c", program}})
	if err != nil {
		t.Fatal(err)
	}
	// The file is empty for a moment now and then.
	count := func(c *snapshot.Container, above int) (n int) {
		t.Helper()
		err := eventually(t.Context(), func() error {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/count", c.Pid))
			if err != nil {
				return err
			}
			if _, err := fmt.Sscan(string(b), &n); err != nil || n <= above {
				return fmt.Errorf("%s is at %q, and not above %d", c.Name, b, above)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, engine := range []string{snapshot.EngineCRIU, snapshot.EngineAuto} {
		before := count(c, 0)
		clones, err := svc.Fork(t.Context(), api.ForkRequest{Container: "agent", Name: "branch-" + engine, Count: 3, Engine: engine})
		if err != nil || len(clones) != 3 {
			t.Fatalf("%s: %d clones, %v", engine, len(clones), err)
		}
		for _, clone := range append(clones, c) {
			count(clone, count(clone, before-1))
		}
	}
	snaps, err := svc.Snapshots(t.Context())
	if err != nil || len(snaps) != 2 || !strings.HasPrefix(snaps[0].Names[0], "agent-fork-") {
		t.Errorf("snapshots %v, %v", snaps, err)
	}
	if _, err := svc.Fork(t.Context(), api.ForkRequest{Container: "agent", Count: 0}); snapshot.KindOf(err) != snapshot.KindInvalid {
		t.Errorf("no clone at all: %v", err)
	}
	if again, err := svc.Snapshots(t.Context()); err != nil || len(again) != len(snaps) {
		t.Errorf("a fork that made nothing left a snapshot: %v, %v", again, err)
	}
}

package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestContainerd(t *testing.T) {
	engine, host := testengine.StartContainerd(t), t.TempDir()
	for _, id := range []string{"web-1", "web-2"} {
		engine.Run(t, id, counter, "--memory-limit", "67108864", "--mount", "type=bind,src="+host+",dst=/vol,options=rbind:ro")
	}
	r := Containerd{State: engine.State}
	bundle := filepath.Join(engine.State, "io.containerd.runtime.v2.task/test/web-1")
	s := find(t, r, "test/web-1", "web-1", bundle)
	name, _ := os.Hostname()
	if s.ID != "web-1" || s.Bundle != bundle || s.Hostname != name || s.TTY || s.Cgroup != engine.Cgroup+"/web-1" || s.Upper == "" {
		t.Errorf("id %q, bundle %q, hostname %q, tty %v, cgroup %q, upper %q", s.ID, s.Bundle, s.Hostname, s.TTY, s.Cgroup, s.Upper)
	}
	if s.Volumes["/vol"] != host || len(s.Volumes) != 1 || len(s.Files) != 0 {
		t.Errorf("volumes %v, files %v", s.Volumes, s.Files)
	}
	wantLimits(t, s, snapshot.Limits{MemoryBytes: 64 << 20})
	checkpoint(t, s)

	wantKind(t, r, "web", snapshot.KindInvalid)
	wantKind(t, r, "other/web-1", snapshot.KindNotFound)
	wantKind(t, r, "nobody", snapshot.KindNotFound)
	engine.Command(t, "task", "kill", "-s", "KILL", "web-2")
	testengine.Await(t, "the task to end", func() error {
		if _, err := r.Find(t.Context(), "web-2"); err == nil {
			return fmt.Errorf("it is still found")
		}
		return nil
	})
	wantKind(t, r, "web-2", snapshot.KindState)
}

package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

// TestCgroupLayouts has the layouts that this host does not have, in plain directories: there no cgroup gets any file,
// so that version 1 is never usable, and version 2 is where its list of controllers says so.
func TestCgroupLayouts(t *testing.T) {
	v2 := t.TempDir()
	if err := os.WriteFile(filepath.Join(v2, "cgroup.controllers"), []byte("cpu memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v1 := &mountinfo.Info{FSType: "cgroup", VFSOptions: "rw,memory", Mountpoint: t.TempDir()}
	for _, c := range []struct {
		name   string
		mounts []*mountinfo.Info
		want   []string
	}{
		{"none", nil, []string{"no cgroup hierarchy is mounted"}},
		{"v2 without pids", []*mountinfo.Info{{FSType: "cgroup2", Mountpoint: v2}}, []string{"pids", "layout: v2"}},
		{"v1 memory only", []*mountinfo.Info{v1}, []string{"memory, cpu, pids, freezer", "layout: v1", "memory.limit_in_bytes"}},
		{"hybrid", []*mountinfo.Info{v1, {FSType: "cgroup2", Mountpoint: v2}}, []string{"layout: hybrid", "memory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := tryCgroups(c.mounts)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(v2, "snapd-ctr-probe-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// knob is a file that a fresh cgroup has where its controller works.
type knob struct{ controller, v1, v2 string }

func knobs() []knob {
	return []knob{
		{"memory", "memory.limit_in_bytes", "memory.max"},
		{"cpu", "cpu.cfs_quota_us", "cpu.max"},
		{"pids", "pids.max", "pids.max"},
		{"freezer", "freezer.state", "cgroup.freeze"},
	}
}

func cgroups() Probe {
	return try("cgroups", "limits of containers, and freezing them while they are captured",
		"mount the controllers memory, cpu, pids and freezer (v1), or cgroup2 with all controllers, at /sys/fs/cgroup", true, func() error {
			mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
			if err != nil {
				return err
			}
			return tryCgroups(mounts)
		})
}

// tryCgroups makes a cgroup for each controller, and looks for its knob there.
func tryCgroups(mounts []*mountinfo.Info) error {
	if len(mounts) == 0 {
		return errors.New("no cgroup hierarchy is mounted")
	}
	var missing []string
	var why error
	for _, k := range knobs() {
		dir, file, ok := hierarchyOf(mounts, k)
		if !ok {
			missing = append(missing, k.controller)
			continue
		}
		if err := tryKnob(dir, file); err != nil {
			missing = append(missing, k.controller)
			why = errors.Join(why, err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("%s: not usable (layout: %s)", strings.Join(missing, ", "), layoutOf(mounts)), why)
}

// hierarchyOf returns where a controller is mounted, and the name of its knob there.
func hierarchyOf(mounts []*mountinfo.Info, k knob) (dir, file string, ok bool) {
	for _, m := range mounts {
		if m.FSType == "cgroup" && slices.Contains(strings.Split(m.VFSOptions, ","), k.controller) {
			return m.Mountpoint, k.v1, true
		}
	}
	for _, m := range mounts {
		if m.FSType != "cgroup2" {
			continue
		}
		// The freezer is part of version 2 itself; the other controllers can be missing from it.
		b, err := os.ReadFile(filepath.Join(m.Mountpoint, "cgroup.controllers"))
		if k.controller == "freezer" || err == nil && slices.Contains(strings.Fields(string(b)), k.controller) {
			return m.Mountpoint, k.v2, true
		}
	}
	return "", "", false
}

// tryKnob makes a cgroup and removes it. In version 2 a controller's knobs show only where the parent passes the
// controller on, which whoever makes cgroups does: there making one is enough.
func tryKnob(hierarchy, file string) (err error) {
	dir, err := os.MkdirTemp(hierarchy, "snapd-ctr-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	_, err = os.Stat(filepath.Join(dir, file))
	if _, v2 := os.Stat(filepath.Join(dir, "cgroup.controllers")); err != nil && v2 == nil && file != "cgroup.freeze" {
		return nil
	}
	return err
}

func layoutOf(mounts []*mountinfo.Info) string {
	v1 := slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m.FSType == "cgroup" })
	v2 := slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m.FSType == "cgroup2" })
	switch {
	case v1 && v2:
		return "hybrid"
	case v1:
		return "v1"
	}
	return "v2"
}

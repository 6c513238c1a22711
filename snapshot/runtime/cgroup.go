package runtime

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// unified is the key of the v2 hierarchy among a process's cgroups.
const unified = ""

// byController takes the names of hierarchies ("cpu,cpuacct") apart.
func byController(hierarchies map[string]string) map[string]string {
	m := make(map[string]string)
	for name, path := range hierarchies {
		for controller := range strings.SplitSeq(name, ",") {
			m[controller] = path
		}
	}
	return m
}

func (s *Source) observeCgroup(spec *specs.Spec) error {
	hierarchies, err := proc.Cgroups(s.Pid)
	if err != nil {
		return err
	}
	paths := byController(hierarchies)
	if spec.Linux != nil {
		for c, p := range paths {
			paths[c] = trimToContainer(p, spec.Linux.CgroupsPath)
		}
	}
	s.Cgroup = paths[unified]
	if p, ok := paths["memory"]; ok {
		s.Cgroup = p
	} else if v1 := firstController(paths); v1 != "" && s.Cgroup == "" {
		s.Cgroup = paths[v1]
	}
	mounts, err := proc.Mounts(os.Getpid())
	if err != nil {
		return err
	}
	g := cgroup{paths: paths, mounts: mounts}
	if g.frozen() {
		return failure(snapshot.KindState, s.on(), errors.New("the container is paused"), "resume it first")
	}
	s.Limits = g.limits()
	return nil
}

func firstController(paths map[string]string) string {
	names := make([]string, 0, len(paths))
	for c := range paths {
		if c != unified {
			names = append(names, c)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}

// trimToContainer cuts path, where a process is, after the directory that belongs to the container: init may sit below
// it (crun makes "container" there, systemd "init.scope"). specPath is the spec's cgroupsPath, "/docker/ID" or
// "system.slice:docker:ID"; its last part is in the name of the container's directory.
func trimToContainer(path, specPath string) string {
	i := strings.LastIndexAny(specPath, "/:")
	id := specPath[i+1:]
	if id == "" {
		return path
	}
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.Contains(p, id) {
			return strings.Join(parts[:i+1], "/")
		}
	}
	return path
}

// cgroup reads a container's control files.
type cgroup struct {
	paths  map[string]string
	mounts []proc.Mount
}

// read returns a control file's text, trimmed; "" when there is none. v1 is the name where the controller has a hierarchy
// of its own, v2 that in the unified one.
func (g cgroup) read(controller, v1, v2 string) (text string, isV2 bool) {
	name, key := v1, controller
	if _, ok := g.paths[controller]; !ok {
		name, key = v2, unified
	}
	path, ok := g.paths[key]
	for _, m := range g.mounts {
		if !ok || key == unified && m.FSType != "cgroup2" ||
			key != unified && (m.FSType != "cgroup" || !slices.Contains(strings.Split(m.VFSOptions, ","), key)) {
			continue
		}
		rel, err := filepath.Rel(m.Root, path)
		if err != nil {
			continue
		}
		if b, err := os.ReadFile(filepath.Join(m.Mountpoint, rel, name)); err == nil {
			return strings.TrimSpace(string(b)), key == unified
		}
	}
	return "", key == unified
}

func (g cgroup) frozen() bool {
	state, _ := g.read("freezer", "freezer.state", "cgroup.freeze")
	return state == "FROZEN" || state == "FREEZING" || state == "1"
}

func (g cgroup) limits() snapshot.Limits {
	var l snapshot.Limits
	memory, _ := g.read("memory", "memory.limit_in_bytes", "memory.max")
	// v1 prints "no limit" as the largest whole number of pages.
	if n, err := strconv.ParseInt(memory, 10, 64); err == nil && n < math.MaxInt64-1<<16 {
		l.MemoryBytes = n
	}
	pids, _ := g.read("pids", "pids.max", "pids.max")
	l.Pids, _ = strconv.ParseInt(pids, 10, 64) // "max" is no limit

	quota, isV2 := g.read("cpu", "cpu.cfs_quota_us", "cpu.max")
	period := ""
	if isV2 {
		quota, period, _ = strings.Cut(quota, " ")
	} else {
		period, _ = g.read("cpu", "cpu.cfs_period_us", "")
	}
	q, errQ := strconv.ParseFloat(quota, 64)
	p, errP := strconv.ParseFloat(period, 64)
	if errQ == nil && errP == nil && q > 0 && p > 0 {
		l.CPUs = q / p
	}
	return l
}

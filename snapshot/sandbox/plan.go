package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// PlanOptions says what is known about a container's mounts beforehand.
type PlanOptions struct {
	Files      map[string]bool   // container paths of generated files and directories, of which each clone gets a copy
	Volumes    map[string]string // container path -> host source, shared with all clones
	CgroupPath string            // of the container, below each hierarchy; next to those of /proc/PID/cgroup
}

// PlanMounts decides for each mount of the container with the init process pid who makes it again in a clone. The
// result is in mountinfo order. A mount that no rule fits is an error of kind not-cloneable that names it.
//
// CRIU 4.2 imposes the rules. It can make a mount again if it knows the file system type and the mount shows the file
// system's root, or if the mount is a bind of something below another mount of the same super block that is made again
// (or that is external, or the root); everything else must be external. A tmpfs it could make, for a tar and a gzip
// process each, so those are external too.
func PlanMounts(pid int, o PlanOptions) ([]snapshot.Mount, error) {
	p, err := newPlanner(pid, o)
	if err != nil {
		return nil, err
	}
	plan := make([]snapshot.Mount, 0, len(p.mounts))
	for _, m := range p.mounts {
		out, err := p.classify(m)
		if err != nil {
			return nil, &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "plan mount", On: m.Mountpoint,
				Err: err, Hint: "unmount it in the container, or start the container without it"}
		}
		out.On = p.on(m)
		plan = append(plan, out)
	}
	return plan, p.hide(plan)
}

// hide leaves to CRIU what another mount at the same path covers. Since externals are found by path, CRIU takes it for
// external as well if the one on top is, which nobody sees. The other way round the mount on top would become
// external, so what is below must be something that CRIU can make by itself.
func (p *planner) hide(plan []snapshot.Mount) error {
	for i, m := range p.mounts {
		on := slices.IndexFunc(p.mounts, func(o proc.Mount) bool { return o.Parent == m.ID && o.Mountpoint == m.Mountpoint })
		if on < 0 || plan[i].Key == "" {
			continue
		}
		if plan[on].Key == "" && plan[i].Kind != snapshot.MountTmpfs {
			return &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "plan mount", On: m.Mountpoint,
				Err: fmt.Errorf("a %s lies over a %s of the host", p.mounts[on].FSType, m.FSType), Hint: "mount only one of them"}
		}
		if plan[i].Kind != snapshot.MountTmpfs { // of others there is nothing that could be made again
			plan[i].Options = ""
		} else if plan[i].Options == "" {
			plan[i].Options = "rw"
		}
		plan[i].Kind, plan[i].Key, plan[i].Source = snapshot.MountNative, "", ""
	}
	return nil
}

type planner struct {
	pid     int
	o       PlanOptions
	root    proc.Mount
	mounts  []proc.Mount
	host    []proc.Mount      // of our own mount namespace
	outside []proc.Mount      // of the host's init
	first   map[device]string // the mount of each super block that others are bound from: its path
	cgroups map[string]string // hierarchy -> path of the container's cgroup
}

// device is the number by which mountinfo names a super block.
type device struct{ major, minor int }

func deviceOf(m proc.Mount) device { return device{m.Major, m.Minor} }

func newPlanner(pid int, o PlanOptions) (*planner, error) {
	p := &planner{pid: pid, o: o, first: make(map[device]string)}
	var err error
	if p.mounts, err = proc.Mounts(pid); err != nil {
		return nil, fmt.Errorf("mounts of process %d: %w", pid, err)
	}
	i := slices.IndexFunc(p.mounts, func(m proc.Mount) bool { return m.Mountpoint == "/" })
	if i < 0 {
		return nil, fmt.Errorf("mounts of process %d: no root", pid)
	}
	p.root = p.mounts[i]
	if p.host, err = proc.Mounts(os.Getpid()); err != nil {
		return nil, fmt.Errorf("mounts of the host: %w", err)
	}
	if p.outside, err = proc.Mounts(1); err != nil {
		return nil, fmt.Errorf("mounts of the host: %w", err)
	}
	if p.cgroups, err = proc.Cgroups(pid); err != nil {
		return nil, err
	}
	// Mount ids are reused, so a bind may come before the mount that it was made from: the mount that shows most of
	// its super block is the one to bind from.
	roots := make(map[device]string)
	for _, m := range p.mounts {
		if had, ok := roots[deviceOf(m)]; !ok || len(m.Root) < len(had) {
			roots[deviceOf(m)], p.first[deviceOf(m)] = m.Root, m.Mountpoint
		}
	}
	return p, nil
}

func (p *planner) classify(m proc.Mount) (snapshot.Mount, error) {
	out := snapshot.Mount{Path: m.Mountpoint, FSType: m.FSType, Flags: strings.Split(m.Options, ",")}
	if m.Mountpoint == "/" {
		out.Kind = snapshot.MountRoot
		return out, nil
	}
	external := func(kind snapshot.MountKind, source string) (snapshot.Mount, error) {
		out.Kind, out.Source, out.Key = kind, source, "m:"+m.Mountpoint
		if strings.HasSuffix(m.Root, "//deleted") {
			return out, errors.New("what it shows was deleted on the host") // CRIU insists on making the source itself
		}
		return out, nil
	}
	if source, ok := p.o.Volumes[m.Mountpoint]; ok {
		return external(snapshot.MountBind, source)
	}
	if p.o.Files[m.Mountpoint] {
		return external(snapshot.MountFile, "")
	}
	if deviceOf(m) == deviceOf(p.root) && below(m.Root, p.root.Root) {
		return bindOf(p.root, m, out), nil
	}
	if m.FSType == "cgroup" || m.FSType == "cgroup2" {
		hierarchy := hierarchyOf(m)
		if sub, ok := p.ownCgroup(hierarchy, m.Root); ok {
			out.Sub = sub
			return external(snapshot.MountCgroup, hierarchy)
		}
		return p.bound(m, external) // a part of the hierarchy that is not the container's: as the host has it
	}
	isTmpfs := m.FSType == "tmpfs"
	onHost := hasDevice(p.host, m)
	if isTmpfs {
		// A shim has its containers' tmpfs in its own mount namespace; they are nobody else's for that.
		// Engines make a container's /dev/shm on the host, and it is the container's alone all the same.
		onHost = hasDevice(p.outside, m) && (m.Mountpoint != shm || sameFile(shm, p.inside(shm)))
	}
	switch {
	case onHost && p.isNull(m):
		return external(snapshot.MountNull, "")
	case onHost:
		return p.bound(m, external)
	case p.first[deviceOf(m)] != m.Mountpoint && p.reachable(m):
		return bindOf(p.base(m), m, out), nil
	case isTmpfs && m.Root == "/":
		out.Options = tmpfsOptions(m.VFSOptions)
		return external(snapshot.MountTmpfs, "")
	case p.isNull(m):
		return external(snapshot.MountNull, "")
	case isTmpfs:
		return external(snapshot.MountFile, "") // a part of a tmpfs that the container does not see as a whole
	case m.Root == "/" && fresh(m.FSType):
		out.Kind, out.Options = snapshot.MountNative, superOptions(m.VFSOptions)
		return out, nil
	default:
		return p.bound(m, external)
	}
}

// shm is where a container, and the host, has its shared memory.
const shm = "/dev/shm"

// fresh says whether CRIU mounts a fresh file system of the type.
func fresh(fstype string) bool {
	switch fstype {
	case "proc", "sysfs", "devpts", "mqueue":
		return true
	default:
		return false
	}
}

// bound makes m a bind of the path under which our own mount namespace has the same thing.
func (p *planner) bound(m proc.Mount, external func(snapshot.MountKind, string) (snapshot.Mount, error)) (snapshot.Mount, error) {
	for _, h := range slices.Backward(p.host) {
		if deviceOf(h) != deviceOf(m) || !below(m.Root, h.Root) {
			continue
		}
		source := path.Join(h.Mountpoint, strings.TrimPrefix(m.Root, strings.TrimSuffix(h.Root, "/")))
		if sameFile(source, p.inside(m.Mountpoint)) {
			return external(snapshot.MountBind, source)
		}
	}
	return snapshot.Mount{}, fmt.Errorf("a mount of a %s whose path on the host cannot be found", m.FSType)
}

// ownCgroup says whether a mount of the hierarchy shows the container's own cgroup, and what of it.
func (p *planner) ownCgroup(hierarchy, root string) (sub string, ok bool) {
	for _, own := range []string{p.cgroups[hierarchy], p.o.CgroupPath} {
		if own != "" && own != "/" && below(root, own) {
			return strings.TrimPrefix(root, own), true
		}
	}
	return "", false
}

func (p *planner) inside(containerPath string) string {
	return fmt.Sprintf("/proc/%d/root%s", p.pid, containerPath)
}

func (p *planner) isNull(m proc.Mount) bool {
	var st syscall.Stat_t
	err := syscall.Lstat(p.inside(m.Mountpoint), &st)
	return err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == nullDevice
}

const nullDevice = 1<<8 | 3

func hasDevice(mounts []proc.Mount, m proc.Mount) bool {
	return slices.ContainsFunc(mounts, func(h proc.Mount) bool { return deviceOf(h) == deviceOf(m) })
}

func sameFile(a, b string) bool {
	x, err := os.Lstat(a)
	if err != nil {
		return false
	}
	y, err := os.Lstat(b)
	return err == nil && os.SameFile(x, y)
}

// below says whether p is dir or lies below it.
func below(p, dir string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}

// hierarchyOf names the cgroup hierarchy that m is a mount of as /proc/PID/cgroup does; "" is that of version 2.
func hierarchyOf(m proc.Mount) string {
	if m.FSType == "cgroup2" {
		return ""
	}
	return hierarchyName(m.VFSOptions)
}

// hierarchyName names the cgroup hierarchy of version 1 that is mounted with these options.
func hierarchyName(options string) string {
	var names []string
	for o := range strings.SplitSeq(options, ",") {
		switch {
		case o == "rw", o == "ro", o == "xattr", o == "noprefix", o == "clone_children", o == "seclabel",
			o == "cpuset_v2_mode", o == "favordynmods", strings.HasPrefix(o, "release_agent="):
		default:
			names = append(names, o)
		}
	}
	return strings.Join(names, ",")
}

// tmpfsOptions keeps the super block options that make sense on another host and kernel.
func tmpfsOptions(all string) string {
	keep := []string{"ro", "size", "nr_blocks", "nr_inodes", "mode", "uid", "gid"}
	var kept []string
	for o := range strings.SplitSeq(all, ",") {
		name, _, _ := strings.Cut(o, "=")
		if slices.Contains(keep, name) {
			kept = append(kept, o)
		}
	}
	return strings.Join(kept, ",")
}

// DumpExternals returns the external mounts of a plan as a dump wants them: "mnt[PATH]:KEY".
func DumpExternals(mounts []snapshot.Mount) []string {
	var list []string
	for _, m := range distinct(mounts) {
		list = append(list, "mnt["+m.Path+"]:"+m.Key)
	}
	return list
}

// distinct returns the external mounts, one a key.
func distinct(mounts []snapshot.Mount) []snapshot.Mount {
	seen := make(map[string]bool)
	var list []snapshot.Mount
	for _, m := range mounts {
		if m.Key != "" && !seen[m.Key] {
			seen[m.Key] = true
			list = append(list, m)
		}
	}
	return list
}

// CaptureMount returns where the content of m, which each clone gets a copy of, can be read while the container does not run.
// Other mounts may cover parts of it: a reader must stay on the file system of the path itself, and needs to take
// nothing of what it finds covered; [PrepareMounts] makes the mount points again.
func CaptureMount(pid int, m snapshot.Mount) (path string, ok bool) {
	if m.Kind != snapshot.MountTmpfs && m.Kind != snapshot.MountFile {
		return "", false
	}
	return fmt.Sprintf("/proc/%d/root%s", pid, m.Path), true
}

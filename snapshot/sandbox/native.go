package sandbox

import (
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// bindOf makes out, which is m, a bind of what base shows.
func bindOf(base, m proc.Mount, out snapshot.Mount) snapshot.Mount {
	out.Kind, out.Sub, out.From = snapshot.MountNative, m.Root, base.Mountpoint
	out.Part = strings.TrimPrefix(strings.TrimPrefix(m.Root, strings.TrimSuffix(base.Root, "/")), "/")
	return out
}

// superOptions keeps what mountinfo has of a super block that CRIU makes by itself, but for the labels that a security module
// has set. There is always something, "rw" or "ro".
func superOptions(all string) string {
	var kept []string
	for o := range strings.SplitSeq(all, ",") {
		name, _, _ := strings.Cut(o, "=")
		if !slices.Contains([]string{"seclabel", "context", "fscontext", "defcontext", "rootcontext"}, name) {
			kept = append(kept, o)
		}
	}
	return strings.Join(kept, ",")
}

// reachable says whether CRIU can bind m from the first mount of its super block.
func (p *planner) reachable(m proc.Mount) bool {
	base := p.base(m)
	return base.Mountpoint != "" && below(m.Root, base.Root)
}

// base returns the first mount of m's super block.
func (p *planner) base(m proc.Mount) proc.Mount {
	for _, o := range p.mounts {
		if o.Mountpoint == p.first[deviceOf(m)] && deviceOf(o) == deviceOf(m) {
			return o
		}
	}
	return proc.Mount{}
}

// on returns the path of the mount that m is mounted on, "" for the root.
func (p *planner) on(m proc.Mount) string {
	for _, o := range p.mounts {
		if o.ID == m.Parent {
			return o.Mountpoint
		}
	}
	return ""
}

package template

import (
	"path"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// mountLayout is how the mounts of a container lie on one another. Mounts are named by their index in the plan.
type mountLayout struct {
	mounts []snapshot.Mount
	parent []int // -1 for the root, and where it is not known
	base   []int // of a bind of another mount: that one; else the mount itself
	source []int // of a bind: the mount in which the path that it is bound from lies when its turn comes
	placed []int // in the order in which they are mounted
}

const nowhere = -1

// newMountLayout finds out for each mount which other one it lies on, and which one it was bound from. A mount for which
// that cannot be told goes to refuse.
func newMountLayout(mounts []snapshot.Mount, refuse func(snapshot.Mount, string)) *mountLayout {
	l := &mountLayout{mounts: mounts, parent: make([]int, len(mounts)), base: make([]int, len(mounts)), source: make([]int, len(mounts))}
	for i, m := range mounts {
		l.parent[i], l.base[i] = nowhere, i
		if m.Kind == snapshot.MountRoot {
			continue
		}
		if l.parent[i] = l.beneath(i); l.parent[i] == nowhere {
			refuse(m, "it cannot be told which mount it lies on")
		}
		if m.From == "" {
			continue
		}
		at := l.at(func(j int) bool { return j != i && mounts[j].Path == m.From && mounts[j].From == "" })
		if len(at) != 1 || mounts[at[0]].FSType != m.FSType && mounts[at[0]].Kind != snapshot.MountRoot {
			refuse(m, "it cannot be told which mount it was made from")
			continue
		}
		l.base[i] = at[0]
	}
	return l
}

// beneath returns the mount that mount i lies on.
func (l *mountLayout) beneath(i int) int {
	m := l.mounts[i]
	if m.On == m.Path { // it covers the one that came before it
		at := l.at(func(j int) bool { return j < i && l.mounts[j].Path == m.On })
		if len(at) == 0 {
			return nowhere
		}
		return at[len(at)-1]
	}
	at := l.at(func(j int) bool { return j != i && l.mounts[j].Path == m.On })
	if len(at) != 1 { // two mounts there: either could be meant
		return nowhere
	}
	return at[0]
}

func (l *mountLayout) at(match func(j int) bool) (list []int) {
	for j := range l.mounts {
		if match(j) {
			list = append(list, j)
		}
	}
	return list
}

// order returns the mounts so that each, when its turn comes, is where its path leads to and not hidden, and so is what
// it is bound from. Where that leaves a choice it is the order of the plan. The second result are mounts for which
// there is no turn.
//
// Mounts that are early come first as far as that is possible: ahead is how many, the root among them.
func (l *mountLayout) order(early func(i int) bool) (order []int, ahead int, stuck []int) {
	l.placed = nil
	for len(l.placed) < len(l.mounts) {
		left := l.at(func(j int) bool { return !slices.Contains(l.placed, j) })
		hasTurn := func(i int) bool { return l.possible(i) && !l.inTheWay(i) }
		at := -1
		if ahead == len(l.placed) {
			at = slices.IndexFunc(left, func(i int) bool { return (len(l.placed) == 0 || early(i)) && hasTurn(i) })
		}
		if at >= 0 {
			ahead++
		} else if at = slices.IndexFunc(left, hasTurn); at < 0 {
			return l.placed, ahead, left
		}
		i := left[at]
		if l.base[i] != i {
			l.source[i] = l.resolve(l.sourcePath(i))
		}
		l.placed = append(l.placed, i)
	}
	return l.placed, ahead, nil
}

// possible says whether mount i would come to lie where it belongs if it were made now.
func (l *mountLayout) possible(i int) bool {
	if l.mounts[i].Kind == snapshot.MountRoot {
		return len(l.placed) == 0
	}
	if l.parent[i] == nowhere || l.resolve(l.mounts[i].Path) != l.parent[i] {
		return false
	}
	if l.base[i] == i {
		return true
	}
	from := l.resolve(l.sourcePath(i))
	return from != nowhere && l.base[from] == l.base[i]
}

// sourcePath returns the path from which mount i is bound.
func (l *mountLayout) sourcePath(i int) string { return path.Join(l.mounts[i].From, l.mounts[i].Part) }

// inTheWay says whether mount i would hide a place that another mount, which is still to come, needs.
func (l *mountLayout) inTheWay(i int) bool {
	left := l.at(func(j int) bool { return j != i && !slices.Contains(l.placed, j) })
	return slices.ContainsFunc(left, func(j int) bool {
		return l.hides(i, l.mounts[j].Path, l.parent[j]) ||
			l.base[j] != j && l.base[j] != l.base[i] && l.hides(i, l.sourcePath(j), l.base[j])
	})
}

// hides says whether mount i would keep a path from leading to mount target.
func (l *mountLayout) hides(i int, p string, target int) bool {
	if !isBelow(p, l.mounts[i].Path) || target == i {
		return false
	}
	if l.parent[i] == target {
		return true
	}
	on := target // what the path leads through
	for range l.mounts {
		if on == nowhere || on == i {
			return false
		}
		if l.parent[on] == l.parent[i] {
			return len(l.mounts[i].Path) <= len(l.mounts[on].Path)
		}
		on = l.parent[on]
	}
	return false // in a circle
}

// resolve returns the mount in which a path leads to something, as far as mounts are placed.
func (l *mountLayout) resolve(p string) int {
	at := nowhere
	for {
		next := nowhere
		for _, j := range l.placed {
			if l.parent[j] != at || !isBelow(p, l.mounts[j].Path) {
				continue
			}
			if next == nowhere || len(l.mounts[j].Path) < len(l.mounts[next].Path) {
				next = j
			}
		}
		if next == nowhere {
			return at
		}
		at = next
	}
}

func isBelow(p, dir string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}

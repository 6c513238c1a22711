package api

import (
	"context"
	"errors"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template"
)

// leftovers finds what dead makers left on the host: containers half made, cgroups and addresses without a container.
func (l *Local) leftovers(repair bool) ([]Problem, error) {
	var out []Problem
	damaged, err := shim.DamagedContainers(l.cfg.Root)
	if err != nil {
		return nil, err
	}
	// Whose cgroups and addresses are in use cannot be told while a record is missing: those are left alone.
	for _, id := range slices.Sorted(maps.Keys(damaged)) {
		out = append(out, Problem{Where: "container " + snapshot.ShortID(id), What: damaged[id].Error(),
			Remedy: "snapd-ctr rm -f " + snapshot.ShortID(id) + " ends what runs of it and removes it"})
	}
	if len(damaged) > 0 {
		return out, nil
	}
	// A container's record is there before its cgroup and its address, so the records are read last: what has none then
	// is nobody's, even while containers are being made.
	groups, leases, err := l.occupied()
	if err != nil {
		return nil, err
	}
	// A slot becomes a container, so slots are read before, and a container has its directory before its record.
	live := make(map[string]bool)
	slots, err := shim.AllSlots(l.cfg.Root)
	if err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(filepath.Join(l.cfg.Root, "containers"))
	if err != nil {
		return nil, err
	}
	for _, id := range slots {
		live[id] = true // or its shim was killed: that is said below
	}
	for _, d := range dirs {
		live[d.Name()] = true
	}
	cs, err := shim.ListContainers(l.cfg.Root)
	if err != nil {
		return nil, err
	}
	for _, c := range cs {
		if c.Status == snapshot.StatusCreating {
			if lock := l.abandoned(c.ID); lock != nil {
				out = append(out, mend(repair, "container "+c.Name, "was being made when its maker was killed", func() error { return l.sweep(&c) }))
				lock.Close()
				continue
			}
		}
		live[c.ID] = c.Status != snapshot.StatusExited
	}
	for _, d := range dirs {
		if halfMade(cs, d) {
			if lock, err := sys.TryLockFile(filepath.Join(shim.ContainerDir(l.cfg.Root, d.Name()), makerLock)); err == nil {
				c := snapshot.Container{ID: d.Name(), Name: snapshot.ShortID(d.Name()), Network: snapshot.Network{Mode: "bridge"},
					Cgroup: path.Join(l.cgroupParent()+sandbox.Clones, d.Name())}
				out = append(out, mend(repair, "container "+c.Name, "was being made when its maker was killed, before it had a record", func() error { return l.sweep(&c) }))
				lock.Close()
			}
		}
	}
	// Whose owner went away while we looked may be gone by now as well.
	stillGroups, stillLeases, err := l.occupied()
	if err != nil {
		return nil, err
	}
	for _, parent := range slices.Sorted(maps.Keys(groups)) {
		for _, id := range groups[parent] {
			if !live[id] && slices.Contains(stillGroups[parent], id) {
				name := path.Join(parent, id)
				out = append(out, mend(repair, "cgroup "+name, "belongs to no container", func() error { return removeCgroup(name) }))
			}
		}
	}
	for _, id := range leases {
		// Another state directory may share the bridge: a container of its, while it lives, has a cgroup somewhere.
		if !live[id] && slices.Contains(stillLeases, id) && !hasCgroup(id) {
			out = append(out, mend(repair, "address of "+snapshot.ShortID(id), "is leased to no container", func() error { return l.bridge.Release(id) }))
		}
	}
	dead, err := l.deadShims(repair)
	return append(out, dead...), err
}

// halfMade says whether a directory is that of a container without a record, and has been for longer than it takes to write
// one.
func halfMade(cs []snapshot.Container, dir os.DirEntry) bool {
	if slices.ContainsFunc(cs, func(c snapshot.Container) bool { return c.ID == dir.Name() }) {
		return false
	}
	info, err := dir.Info()
	return err == nil && dir.IsDir() && time.Since(info.ModTime()) > time.Minute
}

// occupied returns the cgroups there are, by parent, and whom addresses are leased to.
func (l *Local) occupied() (groups map[string][]string, leases []string, err error) {
	groups = make(map[string][]string)
	for _, parent := range []string{l.cgroupParent(), l.cgroupParent() + sandbox.Clones} {
		if groups[parent], err = sandbox.Cgroups(parent); err != nil {
			return nil, nil, err
		}
	}
	leases, err = l.bridge.Leases()
	return groups, leases, err
}

// deadShims finds what shims that were killed had made for clones to come: sandboxes, and what a template stood on.
func (l *Local) deadShims(repair bool) ([]Problem, error) {
	snaps, err := shim.SlotSnapshots(l.cfg.Root)
	if err != nil {
		return nil, err
	}
	var out []Problem
	for _, snap := range snaps {
		lock, err := shim.LockSlots(l.cfg.Root, snap)
		if err != nil {
			continue // its shim lives
		}
		ids, err := shim.SnapshotSlots(l.cfg.Root, snap)
		if err == nil && len(ids) > 0 {
			out = append(out, mend(repair, "sandboxes for clones of "+snap, "were made ahead by a shim that was killed", func() error { return l.sweepSlots(snap, ids) }))
		}
		lock.Close()
	}
	dirs, err := filepath.Glob(filepath.Join(l.cfg.Root, "templates", "*")) // also those that were being made
	for _, dir := range dirs {
		if fi, err := os.Stat(dir); err != nil || !strings.HasPrefix(filepath.Base(dir), template.DirPrefix) && time.Since(fi.ModTime()) < time.Minute {
			continue // it may be about to get its lock, and its name
		}
		lock, err := sys.TryLockFile(filepath.Join(dir, template.LockName))
		if err != nil {
			continue
		}
		out = append(out, mend(repair, dir, "is of a template that died with its shim", func() error { return os.RemoveAll(dir) }))
		lock.Close()
	}
	return out, err
}

func (l *Local) sweepSlots(snap string, ids []string) error {
	var errs []error
	for _, id := range ids {
		dir, ours := shim.UnclaimedSlot(l.cfg.Root, snap, id)
		if !ours {
			continue
		}
		c := snapshot.Container{ID: id, Cgroup: path.Join(l.cgroupParent()+sandbox.Clones, id), Network: snapshot.Network{Mode: "bridge"}}
		errs = append(errs, l.sandboxGone(&c), os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// hasCgroup says whether any installation has a cgroup for the container.
func hasCgroup(id string) bool {
	for _, pattern := range []string{"/sys/fs/cgroup/snapd-ctr-*/", "/sys/fs/cgroup/*/snapd-ctr-*/"} {
		if found, err := filepath.Glob(pattern + id); err != nil || len(found) > 0 {
			return true
		}
	}
	return false
}

// mend describes a problem and, with repair, does away with it.
func mend(repair bool, where, what string, do func() error) Problem {
	p := Problem{Where: where, What: what, Remedy: "fsck --repair removes it"}
	if !repair {
		return p
	}
	if err := do(); err != nil {
		p.Remedy = "it could not be removed: " + err.Error()
		return p
	}
	p.Repaired, p.Remedy = true, ""
	return p
}

func removeCgroup(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	g := sandbox.OpenCgroup(name)
	return g.Destroy(ctx)
}

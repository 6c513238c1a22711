package api

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// reservation is a container directory under construction. Its lock is held by the process that makes the container:
// a directory that says "creating" and whose lock is free belongs to nobody and may be swept.
type reservation struct {
	record snapshot.Container
	lock   *sys.FileLock
}

const makerLock = "maker.lock"

// reserve takes names for containers, all or none of them, and makes their directories.
func (l *Local) reserve(records []snapshot.Container) ([]*reservation, error) {
	guard, err := sys.LockFile(filepath.Join(l.cfg.Root, "names.lock"))
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	taken := make(map[string]bool)
	making := make(map[string]bool) // containers that may not have their address yet
	cs, err := shim.ListContainers(l.cfg.Root)
	if err != nil && snapshot.KindOf(err) != snapshot.KindCorrupt {
		return nil, err
	}
	for _, c := range cs {
		if c.Status == snapshot.StatusCreating {
			if swept, err := l.sweepAbandoned(&c); err != nil {
				return nil, err
			} else if swept {
				continue
			}
		}
		taken[c.Name] = true
		making[c.ID] = c.Status == snapshot.StatusCreating && c.Network.Mode == "bridge"
	}
	if err := l.checkRoom(records, making); err != nil {
		return nil, err
	}
	var out []*reservation
	for _, c := range records {
		if err := snapshot.CheckName(c.Name); err != nil {
			return nil, errors.Join(err, l.drop(out))
		}
		if taken[c.Name] {
			err := &snapshot.Error{Kind: snapshot.KindExists, Op: "create", On: c.Name,
				Err:  fmt.Errorf("there is a container named %q already", c.Name),
				Hint: "choose another name, or remove it: snapd-ctr rm " + c.Name}
			return nil, errors.Join(err, l.drop(out))
		}
		taken[c.Name] = true
		r, err := l.reserveOne(c)
		if err != nil {
			return nil, errors.Join(err, l.drop(out))
		}
		out = append(out, r)
	}
	return out, nil
}

// checkRoom refuses more containers than the bridge has free addresses for, before any of them is made.
func (l *Local) checkRoom(records []snapshot.Container, making map[string]bool) error {
	wanted := 0
	for _, c := range records {
		if c.Network.Mode == "bridge" {
			wanted++
		}
	}
	if len(records) > 0 && records[0].Snapshot != "" { // slots have their addresses already
		slots, err := shim.Slots(l.cfg.Root, records[0].Snapshot)
		if err != nil {
			return err
		}
		wanted -= min(wanted, len(slots))
	}
	if wanted == 0 {
		return nil
	}
	leases, err := l.bridge.Leases()
	if err != nil {
		return err
	}
	used := len(leases)
	for id, is := range making {
		if is && !slices.Contains(leases, id) {
			used++
		}
	}
	if free := max(0, l.bridge.Capacity()-used); wanted > free {
		return &snapshot.Error{Kind: snapshot.KindState, Op: "addresses of", On: l.bridge.Subnet.String(),
			Err:  fmt.Errorf("%d wanted, and %d of %d are free", wanted, free, l.bridge.Capacity()),
			Hint: "make fewer at once, remove containers that run, or give another --bridge with a larger --subnet"}
	}
	return nil
}

func (l *Local) reserveOne(c snapshot.Container) (*reservation, error) {
	claimed := c.Snapshot != "" && c.Engine != snapshot.EngineCRIU && l.claim(&c)
	dir := shim.ContainerDir(l.cfg.Root, c.ID)
	if !claimed {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	lock, err := sys.LockFile(filepath.Join(dir, makerLock))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := shim.WriteContainer(l.cfg.Root, c); err != nil {
		lock.Close()
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &reservation{record: c, lock: lock}, nil
}

// claim puts a clone into a slot of its snapshot: its id becomes the slot's, whose directory is its own from then on. It
// says whether there was one.
func (l *Local) claim(c *snapshot.Container) bool {
	ids, err := shim.Slots(l.cfg.Root, c.Snapshot)
	if err != nil {
		return false
	}
	for _, id := range ids {
		if ok, err := shim.ClaimSlot(l.cfg.Root, c.Snapshot, id); !ok || err != nil {
			continue
		}
		old := snapshot.ShortID(c.ID)
		c.ID, c.Cgroup = id, path.Join(path.Dir(c.Cgroup), id)
		if c.Name == old {
			c.Name = snapshot.ShortID(id)
		}
		if c.Hostname == old {
			c.Hostname = snapshot.ShortID(id)
		}
		return true
	}
	return false
}

// abandoned returns the lock of the maker of a container that is being made, if nobody is at work on it: nil if somebody
// is, or it has been made since its record was read.
func (l *Local) abandoned(id string) *sys.FileLock {
	lock, err := sys.TryLockFile(filepath.Join(shim.ContainerDir(l.cfg.Root, id), makerLock))
	if err != nil {
		return nil
	}
	if c, err := shim.ReadContainer(l.cfg.Root, id); err != nil || c.Status != snapshot.StatusCreating {
		lock.Close()
		return nil
	}
	return lock
}

// sweepAbandoned removes a container that is being made if nobody is at work on it, and says whether it did.
func (l *Local) sweepAbandoned(c *snapshot.Container) (bool, error) {
	lock := l.abandoned(c.ID)
	if lock == nil {
		return false, nil
	}
	defer lock.Close()
	return true, l.sweep(c)
}

// keep ends a reservation whose container runs.
func (r *reservation) keep() { r.lock.Close() }

// drop takes reservations back whose containers were not made.
func (l *Local) drop(rs []*reservation) error {
	var errs []error
	for _, r := range rs {
		errs = append(errs, l.sweep(&r.record))
		r.lock.Close()
	}
	return errors.Join(errs...)
}

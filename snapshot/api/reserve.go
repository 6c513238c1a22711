package api

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	cs, err := shim.ListContainers(l.cfg.Root)
	if err != nil && snapshot.KindOf(err) != snapshot.KindCorrupt {
		return nil, err
	}
	for _, c := range cs {
		if c.Status == snapshot.StatusCreating && l.abandoned(c.ID) {
			if err := l.sweep(&c); err != nil {
				return nil, err
			}
			continue
		}
		taken[c.Name] = true
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

func (l *Local) reserveOne(c snapshot.Container) (*reservation, error) {
	dir := shim.ContainerDir(l.cfg.Root, c.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
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

// abandoned says whether nobody is at work on a container that is being made.
func (l *Local) abandoned(id string) bool {
	lock, err := sys.TryLockFile(filepath.Join(shim.ContainerDir(l.cfg.Root, id), makerLock))
	if err != nil {
		return false
	}
	lock.Close()
	return true
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

package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// A slot is a sandbox made ahead of time, by a shim for clones of its snapshot. It has the id that the container in it
// will have: its cgroup and its address are under that id already, and its directory becomes the container's by being
// renamed, which is how it is claimed, by one process only.

// SlotDir is the directory of a slot of the snapshot. It is there once the slot is ready, and until it is claimed.
func SlotDir(root, snap, id string) string { return filepath.Join(slotsDir(root, snap), id) }

func slotsDir(root, snap string) string {
	return filepath.Join(root, "slots", snapshot.ShortID(snap))
}

// Slots returns the ids of the snapshot's slots that are ready.
func Slots(root, snap string) ([]string, error) {
	d, err := os.Open(slotsDir(root, snap))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") }), err
}

// ClaimSlot makes a slot's directory that of the container with its id. It says false when somebody else has claimed it.
func ClaimSlot(root, snap, id string) (bool, error) {
	err := os.Rename(SlotDir(root, snap, id), ContainerDir(root, id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// A slot's directory has another name while it is made, and while it is taken away.
const (
	makingSlot = ".making-"
	goneSlot   = ".gone-"
)

// MakingSlot is the directory of a slot that is not ready.
func MakingSlot(root, snap, id string) string {
	return filepath.Join(slotsDir(root, snap), makingSlot+id)
}

// GoneSlot is the directory of a slot that is being taken away.
func GoneSlot(root, snap, id string) string { return filepath.Join(slotsDir(root, snap), goneSlot+id) }

// LockSlots takes the lock that the shim of a snapshot has while it makes slots: who gets it knows that there is no such
// shim. It fails with [sys.ErrLocked] where there is one.
func LockSlots(root, snap string) (*sys.FileLock, error) {
	if err := os.MkdirAll(filepath.Join(root, "slots"), 0o700); err != nil {
		return nil, err
	}
	return sys.TryLockFile(slotsDir(root, snap) + ".lock")
}

// SlotSnapshots returns the short ids of snapshots for which there are slots.
func SlotSnapshots(root string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, "slots"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// UnclaimedSlot takes away the directory of a slot of a shim that is gone, so that nobody claims it any more, and returns
// its name. It says false when somebody has claimed it.
func UnclaimedSlot(root, snap, id string) (dir string, ours bool) {
	dir = GoneSlot(root, snap, id)
	for _, name := range []string{SlotDir(root, snap, id), MakingSlot(root, snap, id)} {
		if os.Rename(name, dir) == nil {
			return dir, true
		}
	}
	_, err := os.Lstat(dir)
	return dir, err == nil
}

// AllSlots returns the ids of all slots of all snapshots, also of those that are not ready yet, or no more.
func AllSlots(root string) ([]string, error) { return slotsIn(filepath.Join(root, "slots", "*")) }

// SnapshotSlots is AllSlots for one snapshot.
func SnapshotSlots(root, snap string) ([]string, error) { return slotsIn(slotsDir(root, snap)) }

func slotsIn(pattern string) ([]string, error) {
	var ids []string
	// A slot goes from one kind of name to the other and back while we look: hence the second look at the first kind.
	for _, names := range []string{".*", "*", ".*"} {
		paths, err := filepath.Glob(filepath.Join(pattern, names))
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			id := strings.TrimPrefix(strings.TrimPrefix(filepath.Base(p), makingSlot), goneSlot)
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

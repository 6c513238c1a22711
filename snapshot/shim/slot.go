package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

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
	return d.Readdirnames(-1)
}

// ClaimSlot makes a slot's directory that of the container with its id. It says false when somebody else has claimed it.
func ClaimSlot(root, snap, id string) (bool, error) {
	err := os.Rename(SlotDir(root, snap, id), ContainerDir(root, id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// AllSlots returns the ids of all slots of all snapshots that are ready.
func AllSlots(root string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(root, "slots", "*", "*"))
	ids := make([]string, len(paths))
	for i, p := range paths {
		ids[i] = filepath.Base(p)
	}
	return ids, err
}

package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// recordFile is the name of a container's record in its directory.
const recordFile = "container.json"

// ContainerDir is the directory of a container: its record, its OCI spec, its log and its own files.
func ContainerDir(root, id string) string { return filepath.Join(root, "containers", id) }

// ReadContainer reads a container's record. The error is of kind not-found where there is none, and corrupt where it
// cannot be understood.
func ReadContainer(root, id string) (snapshot.Container, error) {
	var c snapshot.Container
	b, err := os.ReadFile(filepath.Join(ContainerDir(root, id), recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, &snapshot.Error{Kind: snapshot.KindNotFound, Op: "find container", On: snapshot.ShortID(id),
			Err: errors.New("no such container")}
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil && c.ID != id {
		err = fmt.Errorf("it is of %q", c.ID)
	}
	if err != nil {
		return c, &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "read record of container", On: snapshot.ShortID(id), Err: err}
	}
	return c, nil
}

// WriteContainer replaces a container's record atomically. The container's directory must exist.
func WriteContainer(root string, c snapshot.Container) (err error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	dir := ContainerDir(root, c.ID)
	f, err := os.CreateTemp(dir, ".record-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write record of %s: %w", snapshot.ShortID(c.ID), err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write record of %s: %w", snapshot.ShortID(c.ID), err)
		}
	}()
	if _, err := f.Write(append(b, '\n')); err != nil {
		return err
	}
	// A running container does not survive a crash of the host, so its record need not; an exit status must.
	if c.Status == snapshot.StatusExited {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, recordFile))
}

// ListContainers reads the records of all containers, sorted by id. Directories without a record are passed over; a
// record that cannot be read is an error, and the others are returned with it.
func ListContainers(root string) ([]snapshot.Container, error) {
	all, damaged, err := readContainers(root)
	return all, errors.Join(err, errors.Join(slices.Collect(maps.Values(damaged))...))
}

// DamagedContainers returns the ids of the containers whose records cannot be read, and why.
func DamagedContainers(root string) (map[string]error, error) {
	_, damaged, err := readContainers(root)
	return damaged, err
}

func readContainers(root string) (all []snapshot.Container, damaged map[string]error, err error) {
	entries, err := os.ReadDir(filepath.Join(root, "containers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	damaged = make(map[string]error)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := ReadContainer(root, e.Name())
		switch {
		case err == nil:
			all = append(all, c)
		case snapshot.KindOf(err) != snapshot.KindNotFound:
			damaged[e.Name()] = err
		}
	}
	return all, damaged, nil
}

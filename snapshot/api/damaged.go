package api

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// damaged is the error of what cannot be done with a container whose record cannot be read.
func damaged(op string, c *snapshot.Container) error {
	return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: op, On: c.Name, Err: errors.New("the container's record cannot be read"),
		Hint: "snapd-ctr rm -f " + c.Name + " ends what runs of it and removes it"}
}

// removeDamaged ends and removes a container of which nothing but the id is known. Everything of it is named after that.
func (l *Local) removeDamaged(c *snapshot.Container) error {
	whole := snapshot.Container{ID: c.ID, Name: c.Name, Cgroup: l.cgroupWherever(c.ID), Network: snapshot.Network{Mode: "bridge"}}
	if err := l.sandboxGone(&whole); err != nil {
		return fmt.Errorf("clean up container %s: %w", c.Name, err)
	}
	// Its shim, where there is one, writes a last record into the directory while that goes.
	err := shim.RemoveFiles(l.cfg.Root, c.ID)
	for range 3 {
		if err == nil {
			break
		}
		err = shim.RemoveFiles(l.cfg.Root, c.ID)
	}
	return err
}

// cgroupWherever is the cgroup of a container of which it is not known whether it is a clone.
func (l *Local) cgroupWherever(id string) string {
	clones := l.cgroupParent() + sandbox.Clones
	if names, err := sandbox.Cgroups(clones); err == nil && slices.Contains(names, id) {
		return path.Join(clones, id)
	}
	return l.cgroupOf(id)
}

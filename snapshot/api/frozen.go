package api

import (
	"errors"
	"path/filepath"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// checkThawed says with an error that somebody stopped a container by its cgroup's freezer. We never do. What cannot be
// read says nothing: who needs the container to run will see.
func checkThawed(op string, c *snapshot.Container) error {
	file, is, err := sandbox.OpenCgroup(c.Cgroup).Frozen()
	if err != nil || !is {
		return nil
	}
	word := "0"
	if filepath.Base(file) == "freezer.state" {
		word = "THAWED"
	}
	return &snapshot.Error{Kind: snapshot.KindState, Op: op, On: c.Name, Err: errors.New("the container is frozen; thaw it"),
		Hint: "echo " + word + " > " + file + ", and likewise where a cgroup above it is frozen"}
}

// thaw lets a frozen container go on, where the freezer is its own: otherwise it cannot end.
func thaw(c *snapshot.Container) error {
	g := sandbox.OpenCgroup(c.Cgroup)
	if _, is, err := g.Frozen(); err != nil || !is {
		return nil
	}
	return g.Thaw()
}

package api

import (
	"context"
	"errors"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Fork makes clones of a container that runs, and goes on running, with its memory and its files of one instant. They are
// clones of a snapshot that is taken for them; the name of it is made from the container's, and it stays until it is
// removed. Where no clone could be made there is no snapshot either.
func (l *Local) Fork(ctx context.Context, r ForkRequest) ([]*snapshot.Container, error) {
	c, err := l.runningContainer(ctx, "fork", r.Container)
	if err != nil {
		return nil, err
	}
	name := c.Name + "-fork-" + snapshot.ShortID(snapshot.NewID())
	taken, err := l.Snapshot(ctx, SnapshotRequest{Container: c.ID, Name: name, Progress: r.Progress})
	if err != nil {
		return nil, err
	}
	clones, err := l.Clone(ctx, CloneRequest{Snapshot: taken.Snapshot.ID, Name: r.Name, Count: r.Count, Parallel: r.Parallel,
		Engine: r.Engine, Limits: r.Limits})
	if len(clones) == 0 {
		err = errors.Join(err, l.RemoveSnapshot(context.WithoutCancel(ctx), name))
	}
	return clones, err
}

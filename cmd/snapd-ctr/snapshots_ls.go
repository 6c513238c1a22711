package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type snapshotsLsOptions struct {
	quiet bool
	output
}

func newSnapshotsLsCommand(a *app) *cli.Command {
	var o snapshotsLsOptions
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list snapshots",
		Flags:   append([]cli.Flag{quiet(&o.quiet)}, o.output.flags()...),
		Description: `    snapd-ctr snapshots ls
    snapd-ctr snapshots ls -q

ENGINES says which engines can clone the snapshot, and when blobs of it are missing, that none can.` + exitStatus(),
		Action: a.serve(func(ctx context.Context, svc api.Service, _ []string) error { return runSnapshotsLs(ctx, a, svc, &o) }),
	}
}

func runSnapshotsLs(ctx context.Context, a *app, svc api.Service, o *snapshotsLsOptions) error {
	// One snapshot that is damaged does not hide the others.
	list, damaged := svc.Snapshots(ctx)
	if damaged != nil && len(list) == 0 {
		return damaged
	}
	return errors.Join(printSnapshots(a, list, o), damaged)
}

func printSnapshots(a *app, list []*snapshot.Snapshot, o *snapshotsLsOptions) error {
	if o.asJSON() {
		if list == nil {
			list = []*snapshot.Snapshot{}
		}
		return writeJSON(a.stdout, list)
	}
	if o.quiet {
		for _, s := range list {
			fmt.Fprintln(a.stdout, s.ID)
		}
		return nil
	}
	t := newTable(a.stdout, "NAME", "ID", "OF", "PROCESSES", "MEMORY", "SIZE", "ENGINES", "AGE")
	for _, s := range list {
		c := s.Config
		engines := verdictText(c.Engines)
		if s.Damage != "" {
			engines = "none: " + s.Damage
		}
		t.row(strings.Join(s.Names, ","), shortID(s.ID), sourceText(c.Source), strconv.Itoa(len(c.Processes)),
			bytesText(c.Memory.Bytes), bytesText(s.Bytes), engines, ageText(a.now(), c.Created))
	}
	return t.flush()
}

package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type snapshotsGCOptions struct {
	dryRun bool
	output
}

func newSnapshotsGCCommand(a *app) *cli.Command {
	var o snapshotsGCOptions
	return &cli.Command{
		Name:  "gc",
		Usage: "delete stored data that nothing needs",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Destination: &o.dryRun, Usage: "print what would be deleted"},
		}, o.output.flags()...),
		Description: `    snapd-ctr snapshots gc --dry-run

Deletes blobs and caches that no snapshot, container or running operation needs, and what fsck --repair put into
quarantine more than 30 days ago.` + exitStatus(15),
		Action: a.serve(func(ctx context.Context, svc api.Service, _ []string) error { return runSnapshotsGC(ctx, a, svc, &o) }),
	}
}

func runSnapshotsGC(ctx context.Context, a *app, svc api.Service, o *snapshotsGCOptions) error {
	r, err := svc.GC(ctx, o.dryRun)
	if err != nil {
		return err
	}
	if o.asJSON() {
		return writeJSON(a.stdout, r)
	}
	if o.dryRun {
		for _, p := range r.Paths {
			fmt.Fprintln(a.stdout, plain(p))
		}
	}
	verb := "deleted"
	if o.dryRun {
		verb = "would delete"
	}
	_, err = fmt.Fprintf(a.stdout, "%s %d blobs and %d caches, %s\n", verb, r.Blobs, r.Caches, bytesText(r.Bytes))
	return err
}

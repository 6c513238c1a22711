package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newSnapshotsRmCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove snapshots",
		ArgsUsage: "SNAPSHOT...",
		Description: `    snapd-ctr snapshots rm warm

Clones that run need their snapshot: it is not removed while there are any. The space comes back with
snapd-ctr snapshots gc. Prints what was removed.` + exitStatus(codePartial, 10, 11),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runSnapshotsRm(ctx, a, svc, args)
		}),
	}
}

func runSnapshotsRm(ctx context.Context, a *app, svc api.Service, refs []string) error {
	return a.each(refs, func(ref string) error {
		if err := svc.RemoveSnapshot(ctx, ref); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.stdout, ref)
		return err
	})
}

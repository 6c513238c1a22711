package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newSnapshotsTagCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:        "tag",
		Usage:       "give a snapshot another name",
		ArgsUsage:   "SNAPSHOT NAME",
		Description: `    snapd-ctr snapshots tag warm production` + exitStatus(10, 11),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runSnapshotsTag(ctx, svc, args[0], args[1])
		}),
	}
}

func runSnapshotsTag(ctx context.Context, svc api.Service, ref, name string) error {
	return svc.TagSnapshot(ctx, ref, name)
}

package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newInspectCommand(a *app) *cli.Command {
	var asked bool
	return &cli.Command{
		Name:      "inspect",
		Usage:     "print all that is known of containers, as JSON",
		ArgsUsage: "CONTAINER...",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "json", Destination: &asked, Usage: "print errors as JSON too"}},
		Description: `    snapd-ctr inspect web
    snapd-ctr inspect web | jq -r '.[0].address'

Prints a list with one object a container. For snapshots see: snapd-ctr snapshots inspect` + exitStatus(codePartial, 10),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error { return runInspect(ctx, a, svc, args) }),
	}
}

func runInspect(ctx context.Context, a *app, svc api.Service, refs []string) error {
	var found []*snapshot.Container
	err := a.each(refs, func(ref string) error {
		c, err := svc.Container(ctx, ref)
		if err == nil {
			found = append(found, c)
		}
		return err
	})
	if len(found) == 0 {
		return err
	}
	if werr := writeJSON(a.stdout, viewsOf(found)); err == nil {
		err = werr
	}
	return err
}

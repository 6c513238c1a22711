package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type rmOptions struct{ force bool }

func newRmCommand(a *app) *cli.Command {
	var o rmOptions
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove exited containers",
		ArgsUsage: "CONTAINER...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Destination: &o.force, Usage: "kill running ones first, and remove damaged ones"},
		},
		Description: `    snapd-ctr rm web
    snapd-ctr rm -f $(snapd-ctr ps -aq)

Deletes containers with their files and logs; snapshots stay. Prints the names of those that are gone.` +
			exitStatus(codePartial, 10, 11, 12, 15),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runRm(ctx, a, svc, &o, args)
		}),
	}
}

func runRm(ctx context.Context, a *app, svc api.Service, o *rmOptions, refs []string) error {
	return a.each(refs, func(ref string) error {
		if err := svc.Remove(ctx, ref, o.force); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.stdout, ref)
		return err
	})
}

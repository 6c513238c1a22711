package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newTemplateRmCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove templates",
		ArgsUsage: "SNAPSHOT...",
		Description: `    snapd-ctr template rm warm

Ends the templates of snapshots and gives their memory back. Clones that were made of them go on; the next clone of the
snapshot builds a template anew. Prints what was removed.` + exitStatus(codePartial, 10, 12),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return a.each(args, func(ref string) error {
				if err := svc.RemoveTemplate(ctx, ref); err != nil {
					return err
				}
				_, err := fmt.Fprintln(a.stdout, ref)
				return err
			})
		}),
	}
}

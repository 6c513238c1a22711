package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type killOptions struct{ signal string }

func newKillCommand(a *app) *cli.Command {
	var o killOptions
	return &cli.Command{
		Name:      "kill",
		Usage:     "send a signal to containers",
		ArgsUsage: "CONTAINER...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Value: "KILL", Destination: &o.signal, Usage: "send `SIG`: HUP, SIGHUP or 1"},
		},
		Description: `    snapd-ctr kill web
    snapd-ctr kill -s HUP web

The signal goes to the container's first process. Prints the names of the containers that it was sent to.` +
			exitStatus(codePartial, 10, 11, 12),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runKill(ctx, a, svc, &o, args)
		}),
	}
}

func runKill(ctx context.Context, a *app, svc api.Service, o *killOptions, refs []string) error {
	return a.each(refs, func(ref string) error {
		if err := svc.Kill(ctx, ref, o.signal); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.stdout, ref)
		return err
	})
}

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type stopOptions struct{ seconds number }

func newStopCommand(a *app) *cli.Command {
	o := stopOptions{number{10, 0}}
	return &cli.Command{
		Name:      "stop",
		Usage:     "ask containers to exit, and make them",
		ArgsUsage: "CONTAINER...",
		Flags: []cli.Flag{
			&cli.GenericFlag{Name: "timeout", Aliases: []string{"t"}, Value: &o.seconds, Usage: "kill after `SECONDS`"},
		},
		Description: `    snapd-ctr stop web
    snapd-ctr stop -t 60 db

Sends SIGTERM, waits, and then kills. Prints the names of the containers that have exited.` + exitStatus(codePartial, 10, 11, 12),
		Action: a.do(func(ctx context.Context, args []string) error {
			return a.with(ctx, func(svc api.Service) error { return runStop(ctx, a, svc, &o, args) })
		}),
	}
}

func runStop(ctx context.Context, a *app, svc api.Service, o *stopOptions, refs []string) error {
	grace := time.Duration(o.seconds.value) * time.Second
	return a.each(refs, func(ref string) error {
		if err := svc.Stop(ctx, ref, grace); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.stdout, ref)
		return err
	})
}

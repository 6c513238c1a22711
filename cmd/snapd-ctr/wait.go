package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newWaitCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "wait",
		Usage:     "wait until containers have exited and print their exit status",
		ArgsUsage: "CONTAINER...",
		Description: `    snapd-ctr wait web

Prints one number a container: its exit code, or 128 plus the signal that ended it.` + exitStatus(codePartial, 10, 12),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error { return runWait(ctx, a, svc, args) }),
	}
}

func runWait(ctx context.Context, a *app, svc api.Service, refs []string) error {
	return a.each(refs, func(ref string) error {
		status, err := svc.Wait(ctx, ref)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stdout, status)
		return err
	})
}

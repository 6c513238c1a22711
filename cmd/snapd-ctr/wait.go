package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type waitOptions struct{ output }

func newWaitCommand(a *app) *cli.Command {
	var o waitOptions
	return &cli.Command{
		Name:      "wait",
		Usage:     "wait until containers have exited and print their exit status",
		ArgsUsage: "CONTAINER...",
		Flags:     o.output.flags(),
		Description: `    snapd-ctr wait web
    snapd-ctr wait web db --json

Prints one number a container: its exit code, or 128 plus the signal that ended it; as JSON, a list with one object a
container.` + exitStatus(codePartial, 10, 12, 15),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error { return runWait(ctx, a, svc, &o, args) }),
	}
}

// exitView is the end of a container as JSON shows it.
type exitView struct {
	Container  string `json:"container"` // as it was asked for
	ExitStatus int    `json:"exit_status"`
}

func runWait(ctx context.Context, a *app, svc api.Service, o *waitOptions, refs []string) error {
	exits := []exitView{}
	err := a.each(refs, func(ref string) error {
		status, err := svc.Wait(ctx, ref)
		if err != nil {
			return err
		}
		exits = append(exits, exitView{ref, status})
		if o.asJSON() {
			return nil
		}
		_, err = fmt.Fprintln(a.stdout, status)
		return err
	})
	if !o.asJSON() || len(exits) == 0 {
		return err
	}
	if werr := writeJSON(a.stdout, exits); err == nil {
		err = werr
	}
	return err
}

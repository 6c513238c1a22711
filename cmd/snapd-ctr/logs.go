package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type logsOptions struct {
	follow     bool
	tail       number
	timestamps bool
}

func newLogsCommand(a *app) *cli.Command {
	o := logsOptions{tail: number{-1, 0}}
	return &cli.Command{
		Name:      "logs",
		Usage:     "show what a container wrote",
		ArgsUsage: "CONTAINER",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Destination: &o.follow, Usage: "go on until the container exits"},
			&cli.GenericFlag{Name: "tail", Aliases: []string{"n"}, Value: &o.tail, DefaultText: "all", Usage: "begin `N` lines before the end"},
			&cli.BoolFlag{Name: "timestamps", Aliases: []string{"t"}, Destination: &o.timestamps, Usage: "put the time before each line"},
		},
		Description: `    snapd-ctr logs web
    snapd-ctr logs -f -n 10 web

Standard output of the container goes to standard output, its standard error to standard error.` + exitStatus(10),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runLogs(ctx, a, svc, &o, args[0])
		}),
	}
}

func runLogs(ctx context.Context, a *app, svc api.Service, o *logsOptions, ref string) error {
	return svc.Logs(ctx, ref, api.LogsRequest{
		Follow: o.follow, Tail: o.tail.value, Timestamps: o.timestamps, Stdout: a.stdout, Stderr: a.stderr,
	})
}

package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newForkCommand(a *app) *cli.Command {
	o := cloneOptions{count: number{1, 1}, parallel: number{0, 1}, engine: newChoice("auto", "auto", "template", "criu")}
	flags := []cli.Flag{
		&cli.GenericFlag{Name: "count", Aliases: []string{"n"}, Value: &o.count, Usage: "start `N` clones"},
		&cli.GenericFlag{Name: "parallel", Value: &o.parallel, DefaultText: "twice as many as processors", Usage: "start `K` at a time"},
		&cli.GenericFlag{Name: "engine", Value: &o.engine, Usage: "clone with `ENGINE`: " + o.engine.list()},
		&cli.StringFlag{Name: "name", Destination: &o.name, DefaultText: "made from the id",
			Usage: "call the clone `NAME`, or several NAME-1, NAME-2, …"},
		quiet(&o.quiet),
	}
	return &cli.Command{
		Name:      "fork",
		Usage:     "start clones of a running container",
		ArgsUsage: "CONTAINER",
		Flags:     append(flags, o.output.flags()...),
		Description: `    snapd-ctr fork agent -n 8 --name branch

The clones have the container's memory, processes and files of one instant; the container stops for that long and goes
on. They are clones of a snapshot that is taken for them, CONTAINER-fork-ID, which stays in the store; when the clones are
gone, snapshots rm removes it.` + exitStatus(codePartial, 10, 11, 13, 15, 17),
		Action: a.do(func(ctx context.Context, args []string) error {
			return a.with(ctx, func(svc api.Service) error { return runFork(ctx, a, svc, &o, args[0]) })
		}),
	}
}

func runFork(ctx context.Context, a *app, svc api.Service, o *cloneOptions, ref string) error {
	clones, err := svc.Fork(ctx, api.ForkRequest{Container: ref, Name: o.name, Count: o.count.value, Parallel: o.parallel.value, Engine: o.engine.value})
	if err != nil && len(clones) == 0 {
		return err
	}
	if perr := printClones(a, o, clones); err == nil {
		err = perr
	}
	if !o.asJSON() && !o.quiet && len(clones) > 0 {
		sayFallback(a, snapshot.ShortID(clones[0].Snapshot), clones)
	}
	return err
}

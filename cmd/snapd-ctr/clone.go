package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type cloneOptions struct {
	count    number
	parallel number
	engine   choice
	name     string
	hostname string
	limits   limits
	quiet    bool
	output
}

func newCloneCommand(a *app) *cli.Command {
	o := cloneOptions{count: number{1, 1}, parallel: number{0, 1}, engine: newChoice("auto", "auto", "template", "criu")}
	flags := []cli.Flag{
		&cli.GenericFlag{Name: "count", Aliases: []string{"n"}, Value: &o.count, Usage: "start `N` clones"},
		&cli.GenericFlag{Name: "parallel", Value: &o.parallel, DefaultText: "twice as many as processors", Usage: "start `K` at a time"},
		&cli.GenericFlag{Name: "engine", Value: &o.engine, Usage: "clone with `ENGINE`: " + o.engine.list()},
		&cli.StringFlag{Name: "name", Destination: &o.name, DefaultText: "made from the id",
			Usage: "call the clone `NAME`, or several NAME-1, NAME-2, …"},
		&cli.StringFlag{Name: "hostname", Destination: &o.hostname, Usage: "set the host name to `NAME`", DefaultText: "the clone's name"},
	}
	flags = append(flags, o.limits.flags("the snapshot's")...)
	flags = append(flags, quiet(&o.quiet))
	return &cli.Command{
		Name:      "clone",
		Usage:     "start clones of a snapshot",
		ArgsUsage: "SNAPSHOT",
		Flags:     append(flags, o.output.flags()...),
		Description: `    snapd-ctr clone warm
    snapd-ctr clone warm -n 20 --json
    snapd-ctr clone warm --name worker -n 3 -m 256m

Each clone is a container of its own, with its own files, address, host name, limits and log, and is used like any
other. Connections that were open when the snapshot was taken are closed in clones, and a sleep begins anew.
A limit that is given replaces that of the snapshot; the others stay.

A clone is a fork of the snapshot's template where that can be, and else restored by CRIU; one line then says why.` + exitStatus(codePartial, 10, 11, 13, 15, 17),
		Action: a.do(func(ctx context.Context, args []string) error {
			return a.with(ctx, func(svc api.Service) error { return runClone(ctx, a, svc, &o, o.request(args[0])) })
		}),
	}
}

func runClone(ctx context.Context, a *app, svc api.Service, o *cloneOptions, r api.CloneRequest) (err error) {
	if r.Limits != nil {
		if r.Limits, err = merged(ctx, svc, r.Snapshot, *r.Limits); err != nil {
			return err
		}
	}
	clones, err := svc.Clone(ctx, r)
	if err != nil && len(clones) == 0 {
		return err
	}
	if perr := printClones(a, o, clones); err == nil {
		err = perr
	}
	if !o.asJSON() && !o.quiet {
		sayFallback(a, r.Snapshot, clones)
	}
	return err
}

func (o *cloneOptions) request(ref string) api.CloneRequest {
	r := api.CloneRequest{Snapshot: ref, Name: o.name, Count: o.count.value, Parallel: o.parallel.value, Engine: o.engine.value, Hostname: o.hostname}
	if given := o.limits.value(); given != (snapshot.Limits{}) {
		r.Limits = &given
	}
	return r
}

// merged returns the limits of the snapshot with those that were given on top.
func merged(ctx context.Context, svc api.Service, ref string, given snapshot.Limits) (*snapshot.Limits, error) {
	if given.MemoryBytes != 0 && given.CPUs != 0 && given.Pids != 0 {
		return &given, nil
	}
	in, err := svc.InspectSnapshot(ctx, ref)
	if err != nil {
		return nil, err
	}
	l := in.Snapshot.Config.Limits
	if given.MemoryBytes != 0 {
		l.MemoryBytes = given.MemoryBytes
	}
	if given.CPUs != 0 {
		l.CPUs = given.CPUs
	}
	if given.Pids != 0 {
		l.Pids = given.Pids
	}
	return &l, nil
}

func printClones(a *app, o *cloneOptions, clones []*snapshot.Container) error {
	if o.asJSON() {
		return writeJSON(a.stdout, viewsOf(clones))
	}
	if o.quiet {
		for _, c := range clones {
			fmt.Fprintln(a.stdout, c.ID)
		}
		return nil
	}
	t := newTable(a.stdout, "ID", "NAME", "PID", "ADDRESS", "ENGINE", "TIME")
	for _, c := range clones {
		t.row(shortID(c.ID), c.Name, fmt.Sprint(c.Pid), address(c.Network.Address), c.Engine, msText(c.CloneMS))
	}
	return t.flush()
}

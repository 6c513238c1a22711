package main

import (
	"context"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newStatsCommand(a *app) *cli.Command {
	var o output
	return &cli.Command{
		Name:      "stats",
		Usage:     "show what containers use of memory",
		ArgsUsage: "[CONTAINER...]",
		Flags:     o.flags(),
		Description: `    snapd-ctr stats
    snapd-ctr stats --json | jq 'map(.private_bytes) | add'

Looks once at the containers that are named, or at all that run. PRIVATE is memory that one process alone has mapped: what
a clone has written, and what it has mapped anew. SHARED is mapped by others too: by the template, by siblings, by whoever runs the same
files; it is counted for each process. PAGE TABLES are the kernel's, for each process its own.` + exitStatus(codePartial, 10),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runStats(ctx, a, svc, &o, args)
		}),
	}
}

func runStats(ctx context.Context, a *app, svc api.Service, o *output, refs []string) error {
	if len(refs) == 0 {
		cs, err := svc.Containers(ctx, false)
		if err != nil {
			return err
		}
		for _, c := range cs {
			refs = append(refs, c.ID)
		}
	}
	found := []*api.Usage{}
	err := a.each(refs, func(ref string) error {
		u, err := svc.Usage(ctx, ref)
		if err == nil {
			found = append(found, u)
		}
		return err
	})
	if len(found) == 0 && err != nil {
		return err
	}
	if o.asJSON() {
		if werr := writeJSON(a.stdout, found); err == nil {
			err = werr
		}
		return err
	}
	t := newTable(a.stdout, "ID", "NAME", "ENGINE", "PROCESSES", "THREADS", "PRIVATE", "SHARED", "PAGE TABLES")
	for _, u := range found {
		t.row(shortID(u.ID), u.Name, u.Engine, strconv.Itoa(u.Processes), strconv.Itoa(u.Threads), bytesText(u.PrivateBytes), bytesText(u.SharedBytes),
			bytesText(u.PageTableBytes))
	}
	if werr := t.flush(); err == nil {
		err = werr
	}
	return err
}

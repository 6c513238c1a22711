package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newSnapshotsDiffCommand(a *app) *cli.Command {
	var o output
	return &cli.Command{
		Name:      "diff",
		Usage:     "print what two snapshots do not share",
		ArgsUsage: "A B",
		Flags:     o.flags(),
		Description: `    snapd-ctr snapshots diff warm hot

Compares memory page by page, at the same address of the same process, and files and processes by name. A plus sign
marks what only B has, a minus sign what only A has, a tilde what differs.` + exitStatus(10, 15),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runSnapshotsDiff(ctx, a, svc, &o, args[0], args[1])
		}),
	}
}

func runSnapshotsDiff(ctx context.Context, a *app, svc api.Service, o *output, from, to string) error {
	d, err := svc.DiffSnapshots(ctx, from, to)
	if err != nil {
		return err
	}
	if o.asJSON() {
		return writeJSON(a.stdout, d)
	}
	return writeDifference(a.stdout, d)
}

func writeDifference(w io.Writer, d *api.Difference) error {
	t := newTable(w, "PAGES", "NUMBER", "BYTES")
	for _, row := range []struct {
		name  string
		pages int64
	}{{"shared", d.PagesShared}, {"differ", d.PagesDiffer}, {"only in A", d.PagesOnlyA}, {"only in B", d.PagesOnlyB}} {
		t.row(row.name, fmt.Sprint(row.pages), bytesText(row.pages*4096))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		changes []api.Change
	}{{"PROCESSES", d.Processes}, {"FILES", d.Files}} {
		if len(part.changes) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", part.name)
		for _, c := range part.changes {
			fmt.Fprintf(w, "%s %s\n", c.Sign, plain(c.What))
		}
	}
	return nil
}

package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type fsckOptions struct {
	repair bool
	output
}

func newFsckCommand(a *app) *cli.Command {
	var o fsckOptions
	return &cli.Command{
		Name:  "fsck",
		Usage: "check the store, and what containers left on the host",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "repair", Destination: &o.repair, Usage: "mend what can be mended"},
		}, o.output.flags()...),
		Description: `    snapd-ctr fsck
    snapd-ctr fsck --repair

Prints clean, or a line for each problem. What --repair takes out of the way lies in the store's directory quarantine for
30 days, until snapshots gc deletes it.` + exitStatus(15),
		Action: a.serve(func(ctx context.Context, svc api.Service, _ []string) error { return runFsck(ctx, a, svc, &o) }),
	}
}

func runFsck(ctx context.Context, a *app, svc api.Service, o *fsckOptions) error {
	problems, err := svc.Fsck(ctx, o.repair)
	if err != nil {
		return err
	}
	if err := printProblems(a, o, problems); err != nil {
		return err
	}
	left := 0
	for _, p := range problems {
		if !p.Repaired {
			left++
		}
	}
	if left == 0 {
		return nil
	}
	e := &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "fsck", Err: fmt.Errorf("problems left: %d", left)}
	if !o.repair {
		e.Hint = "snapd-ctr fsck --repair mends what can be mended"
	}
	return e
}

func printProblems(a *app, o *fsckOptions, problems []api.Problem) error {
	if o.asJSON() {
		if problems == nil {
			problems = []api.Problem{}
		}
		return writeJSON(a.stdout, problems)
	}
	if len(problems) == 0 {
		_, err := fmt.Fprintln(a.stdout, "clean")
		return err
	}
	t := newTable(a.stdout, "WHERE", "PROBLEM", "REPAIRED", "REMEDY")
	for _, p := range problems {
		repaired := "no"
		if p.Repaired {
			repaired = "yes"
		}
		t.row(p.Where, p.What, repaired, p.Remedy)
	}
	return t.flush()
}

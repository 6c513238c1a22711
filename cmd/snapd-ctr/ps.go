package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type psOptions struct {
	all   bool
	quiet bool
	output
}

func newPsCommand(a *app) *cli.Command {
	var o psOptions
	return &cli.Command{
		Name:  "ps",
		Usage: "list containers",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Destination: &o.all, Usage: "list exited containers too"},
			quiet(&o.quiet),
		}, o.output.flags()...),
		Description: `    snapd-ctr ps
    snapd-ctr rm -f $(snapd-ctr ps -aq)

Lists running containers, clones among them, and damaged ones: those whose record cannot be read.` + exitStatus(),
		Action: a.serve(func(ctx context.Context, svc api.Service, _ []string) error { return runPs(ctx, a, svc, &o) }),
	}
}

func runPs(ctx context.Context, a *app, svc api.Service, o *psOptions) error {
	cs, err := svc.Containers(ctx, o.all)
	if err != nil {
		return err
	}
	warnOfDamage(a, cs)
	if o.asJSON() {
		return writeJSON(a.stdout, viewsOf(cs))
	}
	if o.quiet {
		for _, c := range cs {
			fmt.Fprintln(a.stdout, c.ID)
		}
		return nil
	}
	t := newTable(a.stdout, "ID", "NAME", "STATUS", "PID", "ADDRESS", "FROM", "ENGINE", "AGE")
	for _, c := range cs {
		t.row(shortID(c.ID), c.Name, statusText(c), pidText(c), address(c.Network.Address), origin(c), c.Engine, ageText(a.now(), c.Created))
	}
	return t.flush()
}

// warnOfDamage says which of the containers are damaged, and what to do about them.
func warnOfDamage(a *app, cs []*snapshot.Container) {
	var names []string
	for _, c := range cs {
		if c.Status == snapshot.StatusDamaged {
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	a.words("snapd-ctr: ps: damaged containers, whose record cannot be read: %s", strings.Join(names, ", "))
	a.words("hint: snapd-ctr rm -f %s ends what runs of them and removes them", strings.Join(names, " "))
}

func statusText(c *snapshot.Container) string {
	switch {
	case c.Status == snapshot.StatusExited && c.ExitKnown:
		return fmt.Sprintf("exited (%d)", c.ExitStatus)
	case c.Status == snapshot.StatusExited:
		return "exited (?)"
	}
	return string(c.Status)
}

func pidText(c *snapshot.Container) string {
	if c.Status != snapshot.StatusRunning {
		return ""
	}
	return strconv.Itoa(c.Pid)
}

// origin says what a container was made of.
func origin(c *snapshot.Container) string {
	switch {
	case c.Snapshot != "":
		return "clone of " + shortID(c.Snapshot)
	case c.Image != "":
		return c.Image
	}
	return c.Base.Dir
}

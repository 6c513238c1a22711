package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newTemplateBuildCommand(a *app) *cli.Command {
	var o output
	return &cli.Command{
		Name:      "build",
		Usage:     "build templates of snapshots, and pin them",
		ArgsUsage: "SNAPSHOT...",
		Flags:     o.flags(),
		Description: `    snapd-ctr template build warm
    snapd-ctr template build warm --json | jq '.[].build_ms'

Builds each template now, so that the first clone does not wait for it, and keeps it until snapd-ctr template rm. One that
is there already is kept as well. A snapshot that only CRIU can clone has none.` + exitStatus(codePartial, 10, 13, 15, 16, 17),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runTemplateBuild(ctx, a, svc, &o, args)
		}),
	}
}

func runTemplateBuild(ctx context.Context, a *app, svc api.Service, o *output, refs []string) error {
	built := []*api.Template{}
	err := a.each(refs, func(ref string) error {
		t, fresh, err := svc.BuildTemplate(ctx, ref)
		if err != nil {
			return err
		}
		built = append(built, t)
		if o.asJSON() {
			return nil
		}
		what := "there already"
		if fresh {
			what = "built in " + msText(t.BuildMS)
		}
		_, err = fmt.Fprintf(a.stdout, "%s: %s, %s resident\n", plain(ref), what, bytesText(t.ResidentBytes))
		return err
	})
	if o.asJSON() && len(built) > 0 {
		if jerr := writeJSON(a.stdout, built); err == nil {
			err = jerr
		}
	}
	return err
}

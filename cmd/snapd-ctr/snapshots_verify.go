package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type snapshotsVerifyOptions struct{ all bool }

func newSnapshotsVerifyCommand(a *app) *cli.Command {
	var o snapshotsVerifyOptions
	return &cli.Command{
		Name:      "verify",
		Usage:     "read snapshots in full and check them against their digests",
		ArgsUsage: "[SNAPSHOT...]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Destination: &o.all, Usage: "check every snapshot"},
		},
		Description: `    snapd-ctr snapshots verify warm
    snapd-ctr snapshots verify --all

Prints one line for each snapshot that is sound.` + exitStatus(codePartial, 10, 15),
		Action: a.do(func(ctx context.Context, args []string) error {
			if o.all == (len(args) > 0) {
				return usagef("either SNAPSHOT or --all says what to verify").hinted("snapd-ctr snapshots verify --all")
			}
			return a.with(ctx, func(svc api.Service) error { return runSnapshotsVerify(ctx, a, svc, &o, args) })
		}),
	}
}

func runSnapshotsVerify(ctx context.Context, a *app, svc api.Service, o *snapshotsVerifyOptions, refs []string) error {
	names := make(map[string]string)
	var unreadable error
	if o.all {
		var list []*snapshot.Snapshot
		if list, unreadable = svc.Snapshots(ctx); unreadable != nil && len(list) == 0 {
			return unreadable
		}
		for _, s := range list {
			refs = append(refs, s.ID)
			if len(s.Names) > 0 {
				names[s.ID] = fmt.Sprintf("%s (%s)", strings.Join(s.Names, ", "), s.ID)
			}
		}
	}
	err := a.each(refs, func(ref string) error {
		name := cmp.Or(names[ref], ref)
		if err := svc.VerifySnapshot(ctx, ref); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		_, err := fmt.Fprintf(a.stdout, "%s: sound\n", name)
		return err
	})
	return errors.Join(err, unreadable)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newSnapshotsImportCommand(a *app) *cli.Command {
	var o output
	var r api.ImportRequest
	return &cli.Command{
		Name:      "import",
		Usage:     "read a snapshot from a file",
		ArgsUsage: "FILE [NAME]",
		Flags: append(o.flags(),
			&cli.StringFlag{Name: "base", Destination: &r.Base,
				Usage: "an archive of podman stands on this `IMAGE` or directory"},
			&cli.BoolFlag{Name: "trust", Destination: &r.Trust,
				Usage: "accept an archive whose clones are given paths of this host"}),
		Description: `    snapd-ctr snapshots import warm.tar
    snapd-ctr snapshots import checkpoint.tar.gz from-podman

FILE may be -, for standard input. Both formats of export are read, and are told apart by what they hold. Prints the
snapshot's id. Without NAME the snapshot has the name that the archive gives it.` + exitStatus(10, 11, 15, 17),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			if len(args) > 1 {
				r.Name = args[1]
			}
			return runSnapshotsImport(ctx, a, svc, &o, args[0], r)
		}),
	}
}

func runSnapshotsImport(ctx context.Context, a *app, svc api.Service, o *output, path string, r api.ImportRequest) error {
	f := a.stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return openError(path, err)
		}
		defer f.Close()
	} else if term.IsTerminal(int(f.Fd())) {
		return usagef("standard input is a terminal").hinted("name a file, or redirect: < FILE")
	}
	s, err := svc.ImportSnapshot(ctx, f, r)
	if err != nil {
		return err
	}
	if o.asJSON() {
		return writeJSON(a.stdout, s)
	}
	_, err = fmt.Fprintln(a.stdout, s.ID)
	return err
}

func openError(path string, err error) error {
	kind := snapshot.KindFailed
	if errors.Is(err, fs.ErrNotExist) {
		kind = snapshot.KindNotFound
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return &snapshot.Error{Kind: kind, Op: "open", On: path, Err: err}
}

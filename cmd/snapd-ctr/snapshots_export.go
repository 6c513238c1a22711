package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type snapshotsExportOptions struct {
	format choice
	force  bool
}

func newSnapshotsExportCommand(a *app) *cli.Command {
	o := snapshotsExportOptions{format: newChoice(string(api.ArchiveOCI), string(api.ArchiveOCI), string(api.ArchivePodman))}
	return &cli.Command{
		Name:      "export",
		Usage:     "write a snapshot to a file",
		ArgsUsage: "SNAPSHOT FILE",
		Flags: []cli.Flag{
			&cli.GenericFlag{Name: "format", Value: &o.format, Usage: "write an archive in `FORMAT`: " + o.format.list()},
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Destination: &o.force, Usage: "write over FILE where it exists"},
		},
		Description: `    snapd-ctr snapshots export warm warm.tar
    snapd-ctr snapshots export warm - | ssh other snapd-ctr snapshots import - warm
    snapd-ctr snapshots export --format podman warm checkpoint.tar

FILE may be -, for standard output. The format oci holds everything; podman is the checkpoint archive of podman and
CRI-O, which checkpointctl reads. The archive holds the memory of the container with every secret in it; the file is
made readable by its owner only.` + exitStatus(10, 11, 15, 17),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runSnapshotsExport(ctx, a, svc, &o, args[0], args[1])
		}),
	}
}

func runSnapshotsExport(ctx context.Context, a *app, svc api.Service, o *snapshotsExportOptions, ref, path string) error {
	format := api.ArchiveFormat(o.format.value)
	if path == "-" {
		if term.IsTerminal(int(a.stdout.Fd())) {
			return usagef("standard output is a terminal").hinted("name a file, or redirect: > FILE")
		}
		return svc.ExportSnapshot(ctx, ref, a.stdout, format)
	}
	if _, err := os.Lstat(path); err == nil && !o.force {
		return &snapshot.Error{Kind: snapshot.KindExists, Op: "export", On: path, Err: fs.ErrExist, Hint: "--force writes over it"}
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // what a link points at is written, not the link
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return writeInto(path, func(f *os.File) error { return svc.ExportSnapshot(ctx, ref, f, format) })
	}
	return writeFile(path, func(f *os.File) error { return svc.ExportSnapshot(ctx, ref, f, format) })
}

// writeInto writes to what is no regular file, a device or a pipe: it is not replaced.
func writeInto(path string, write func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return openError(path, err)
	}
	return errors.Join(write(f), f.Close())
}

// writeFile makes the file at path appear complete or not at all, readable by its owner only.
func writeFile(path string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return createError(path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// createError is about a file that could not be made at path, which is what the user wrote.
func createError(path string, err error) error {
	e := &snapshot.Error{Kind: snapshot.KindFailed, Op: "create", On: path, Err: err}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		e.Err = p.Err // the path in it is that of a temporary file
	}
	if errors.Is(err, fs.ErrNotExist) {
		e.Kind, e.Err = snapshot.KindNotFound, fmt.Errorf("there is no directory %s", filepath.Dir(path))
		e.Hint = "make it first: mkdir -p " + filepath.Dir(path)
	}
	return e
}

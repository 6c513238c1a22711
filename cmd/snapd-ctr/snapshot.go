package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/runtime"
)

type snapshotOptions struct {
	runtime string
	stop    bool
	replace bool
	ready   string
	warm    number
	timeout time.Duration
	quiet   bool
	output
}

func newSnapshotCommand(a *app) *cli.Command {
	var o snapshotOptions
	return &cli.Command{
		Name:      "snapshot",
		Usage:     "make a snapshot of a container",
		ArgsUsage: "[CONTAINER] NAME",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "stop", Destination: &o.stop, Usage: "end the container once the snapshot is safe; otherwise it goes on running"},
			&cli.BoolFlag{Name: "replace", Destination: &o.replace, Usage: "take NAME away from the snapshot that has it"},
			&cli.StringFlag{Name: "ready", Destination: &o.ready,
				Usage: "wait until `URL` answers 2xx; http://:PORT/PATH is the container's own address"},
			&cli.GenericFlag{Name: "warm", Value: &o.warm, DefaultText: "none",
				Usage: "send `N` requests to the URL of --ready before the capture"},
			&cli.StringFlag{Name: "runtime", Destination: &o.runtime,
				Usage: "capture a container that another runtime started: `RUNTIME:ID`, where RUNTIME is " + runtimes() + "; containerd takes NAMESPACE/ID too"},
			&cli.DurationFlag{Name: "timeout", Destination: &o.timeout, Value: 5 * time.Minute, Usage: "give up, and undo, after `TIME`"},
			quiet(&o.quiet),
		}, o.output.flags()...),
		Description: `    snapd-ctr snapshot web warm
    snapd-ctr snapshot web warm --ready http://:8080/healthz --warm 3
    snapd-ctr snapshot --runtime docker:3f2a warm

Captures processes, memory and files of a running container at one instant, and calls the result NAME. A snapshot taken
after the first responses makes the first response of each clone faster: that is what --warm is for. Snapshots hold
the memory of the container with every secret in it; they can be read by root only.` + exitStatus(10, 11, 12, 13, 16, 17),
		Action: a.do(func(ctx context.Context, args []string) error {
			r, err := o.request(args)
			if err != nil {
				return err
			}
			return a.with(ctx, func(svc api.Service) error { return runSnapshot(ctx, a, svc, &o, r) })
		}),
	}
}

func runSnapshot(ctx context.Context, a *app, svc api.Service, o *snapshotOptions, r api.SnapshotRequest) error {
	line := newStatusLine(a.stderr, a.now, !o.quiet && !o.asJSON())
	r.Progress = line.show
	result, err := svc.Snapshot(ctx, r)
	line.clear()
	switch {
	case err != nil:
		return err
	case o.asJSON():
		return writeJSON(a.stdout, result)
	case o.quiet:
		_, err = fmt.Fprintln(a.stdout, result.Snapshot.ID)
		return err
	}
	return writeResult(a.stdout, r.Name, result)
}

func (o *snapshotOptions) request(args []string) (api.SnapshotRequest, error) {
	r := api.SnapshotRequest{
		Runtime: o.runtime, Replace: o.replace, Stop: o.stop, Ready: o.ready, Warm: o.warm.value, Timeout: o.timeout,
		Name: args[len(args)-1],
	}
	switch {
	case o.runtime == "" && len(args) == 1:
		return r, usagef("NAME is missing").hinted("usage: snapd-ctr snapshot [flags] CONTAINER NAME")
	case o.runtime != "" && len(args) == 2:
		return r, usagef("CONTAINER and --runtime cannot both be given").
			hinted("snapd-ctr snapshot --runtime %s %s", o.runtime, r.Name)
	case o.timeout <= 0:
		return r, usagef("--timeout: %s is not above 0", o.timeout)
	}
	if o.runtime == "" {
		r.Container = args[0]
		return r, nil
	}
	if _, _, err := runtime.Parse(o.runtime); err != nil {
		return r, usagef("--runtime: %q is not RUNTIME:ID", o.runtime).hinted("RUNTIME is %s", runtimes())
	}
	return r, nil
}

// runtimes lists the runtimes whose containers can be captured.
func runtimes() string {
	names := slices.Sorted(maps.Keys(runtime.All()))
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// writeResult prints what was captured and where the time went.
func writeResult(w io.Writer, name string, r *api.SnapshotResult) error {
	m := r.Snapshot.Config.Memory
	t := newTable(w)
	t.row("snapshot", name)
	t.row("id", r.Snapshot.ID)
	t.row("frozen", msText(r.FrozenMS))
	t.row("total", msText(r.TotalMS))
	t.row("stored", bytesText(r.Snapshot.Bytes))
	t.row("memory", bytesText(m.Bytes))
	t.row("pages", strconv.FormatInt(m.Pages, 10))
	t.row("zero pages", strconv.FormatInt(m.ZeroPages, 10))
	if r.Stopped {
		t.row("container", "stopped")
	} else {
		t.row("container", "running")
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := writePhases(w, r.Phases); err != nil {
		return err
	}
	return writeFindings(w, r.Snapshot.Config)
}

func writePhases(w io.Writer, phases []snapshot.Phase) error {
	if len(phases) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "PHASE", "TIME")
	for _, p := range phases {
		t.row(p.Name, msText(p.MS))
	}
	return t.flush()
}

// writeFindings prints what a clone will see that differs from the original.
func writeFindings(w io.Writer, c snapshot.Config) error {
	if len(c.Findings) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "FINDING", "DETAIL", "REMEDY")
	for _, f := range c.Findings {
		t.row(f.Code, f.Detail, f.Remedy)
	}
	return t.flush()
}

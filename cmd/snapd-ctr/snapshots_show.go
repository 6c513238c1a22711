package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newSnapshotsShowCommand(a *app) *cli.Command {
	var o output
	return &cli.Command{
		Name:      "show",
		Usage:     "print the record of a snapshot",
		ArgsUsage: "SNAPSHOT",
		Flags:     o.flags(),
		Description: `    snapd-ctr snapshots show warm

Prints what the snapshot was taken of, what it holds, which engines can clone it, and what is different in clones.` +
			exitStatus(10, 15),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runSnapshotsShow(ctx, a, svc, &o, args[0])
		}),
	}
}

func runSnapshotsShow(ctx context.Context, a *app, svc api.Service, o *output, ref string) error {
	in, err := svc.InspectSnapshot(ctx, ref)
	if err != nil {
		return err
	}
	if o.asJSON() {
		return writeJSON(a.stdout, in.Snapshot)
	}
	return writeRecord(a.stdout, in.Snapshot)
}

func writeRecord(w io.Writer, s *snapshot.Snapshot) error {
	c := s.Config
	t := newTable(w)
	t.row("id", s.ID)
	t.row("names", strings.Join(s.Names, ", "))
	t.row("created", c.Created.UTC().Format(time.RFC3339))
	t.row("of", sourceText(c.Source))
	t.row("image", c.Source.Image)
	t.row("command", strings.Join(c.Args, " "))
	t.row("host name", c.Source.Hostname)
	t.row("processes", strconv.Itoa(len(c.Processes)))
	t.row("memory", fmt.Sprintf("%s in %d pages, %d of zeros", bytesText(c.Memory.Bytes), c.Memory.Pages, c.Memory.ZeroPages))
	t.row("stored", fmt.Sprintf("%s in %d blobs", bytesText(s.Bytes), len(s.Layers)))
	t.row("limits", limitsText(c.Limits))
	t.row("network", strings.TrimSpace(c.Network.Mode+" "+address(c.Network.Address)))
	for _, l := range c.Listeners {
		t.row("listens", l.Proto+" "+net.JoinHostPort(l.Address.String(), strconv.Itoa(int(l.Port))))
	}
	for _, v := range c.Volumes {
		t.row("volume", v)
	}
	t.row("made on", fmt.Sprintf("%s, kernel %s, criu %s", c.Architecture, c.Kernel, c.CRIU))
	if err := t.flush(); err != nil {
		return err
	}
	if err := writeVerdicts(w, c.Engines); err != nil {
		return err
	}
	if err := writeFindings(w, c); err != nil {
		return err
	}
	return writePhases(w, c.Phases)
}

func limitsText(l snapshot.Limits) string {
	var s []string
	if l.MemoryBytes != 0 {
		s = append(s, "memory "+bytesText(l.MemoryBytes))
	}
	if l.CPUs != 0 {
		s = append(s, fmt.Sprintf("cpus %g", l.CPUs))
	}
	if l.Pids != 0 {
		s = append(s, fmt.Sprintf("pids %d", l.Pids))
	}
	return strings.Join(s, ", ")
}

// writeVerdicts prints which engine can clone a snapshot, and why one cannot, a line for each reason.
func writeVerdicts(w io.Writer, vs []snapshot.Verdict) error {
	if len(vs) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "ENGINE", "CAN CLONE", "WHY NOT")
	for _, v := range vs {
		can := "yes"
		if !v.OK {
			can = "no"
		}
		engine, reasons := v.Engine, v.Why
		if len(reasons) == 0 {
			reasons = []string{""}
		}
		for _, why := range reasons {
			t.row(engine, can, why)
			engine, can = " ", " " // empty, not missing
		}
	}
	return t.flush()
}

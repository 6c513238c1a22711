package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type snapshotsInspectOptions struct {
	format choice
	json   bool
}

func newSnapshotsInspectCommand(a *app) *cli.Command {
	o := snapshotsInspectOptions{format: newChoice("tree", "tree", "json")}
	return &cli.Command{
		Name:      "inspect",
		Usage:     "print the processes in a snapshot with their memory and descriptors",
		ArgsUsage: "SNAPSHOT",
		Flags: []cli.Flag{
			&cli.GenericFlag{Name: "output", Aliases: []string{"o"}, Value: &o.format, Usage: "print as `FORMAT`: " + o.format.list()},
			&cli.BoolFlag{Name: "json", Destination: &o.json, Usage: "print as JSON, errors too; the same as -o json"},
		},
		Description: `    snapd-ctr snapshots inspect warm
    snapd-ctr snapshots inspect warm --json | jq '.processes[].files'

Prints the tree of processes, each with its memory mappings and open descriptors, then what clones will see that
differs from the original, and which engines can clone the snapshot and why.` + exitStatus(10, 15),
		Action: a.serve(func(ctx context.Context, svc api.Service, args []string) error {
			return runSnapshotsInspect(ctx, a, svc, &o, args[0])
		}),
	}
}

func runSnapshotsInspect(ctx context.Context, a *app, svc api.Service, o *snapshotsInspectOptions, ref string) error {
	in, err := svc.InspectSnapshot(ctx, ref)
	if err != nil {
		return err
	}
	if o.json || o.format.value == "json" {
		return writeJSON(a.stdout, in)
	}
	fmt.Fprintf(a.stdout, "%s (%s)\n", in.Snapshot.ID, strings.Join(in.Snapshot.Names, ", "))
	writeTree(a.stdout, in.Processes)
	if err := writeFindings(a.stdout, in.Snapshot.Config); err != nil {
		return err
	}
	return writeVerdicts(a.stdout, in.Snapshot.Config.Engines)
}

// writeTree prints processes below their parents. A process whose parent is not among them is a root, and so is one
// on a circle of parents, which a damaged image could hold.
func writeTree(w io.Writer, ps []api.ProcessView) {
	known := make(map[int]bool)
	for _, p := range ps {
		known[p.Pid] = true
	}
	children := make(map[int][]int)
	var roots []int
	for i, p := range ps {
		if known[p.PPid] && p.PPid != p.Pid {
			children[p.PPid] = append(children[p.PPid], i)
		} else {
			roots = append(roots, i)
		}
	}
	t := tree{w: w, ps: ps, children: children, seen: make(map[int]bool)}
	for n, i := range roots {
		t.process(i, "", n == len(roots)-1)
	}
	for i := range ps {
		t.process(i, "", true)
	}
}

type tree struct {
	w        io.Writer
	ps       []api.ProcessView
	children map[int][]int // pid -> indexes
	seen     map[int]bool  // indexes that are printed
}

func (t *tree) process(i int, indent string, last bool) {
	if t.seen[i] {
		return
	}
	t.seen[i] = true
	p := t.ps[i]
	indent = t.line(indent, last, "[%d] %s  %d threads  uid %d  %s  %s", p.Pid, p.Comm, p.Threads, p.UID, bytesText(p.Bytes), strings.Join(p.Args, " "))
	kids := t.children[p.Pid]
	if len(p.Mappings) > 0 {
		below := t.line(indent, len(p.Files) == 0 && len(kids) == 0, "mappings")
		for j, m := range p.Mappings {
			t.line(below, j == len(p.Mappings)-1, "%012x-%012x %s %-6s %10s  %s", m.Start, m.End, m.Prot, m.Kind, bytesText(m.Present), m.Name)
		}
	}
	if len(p.Files) > 0 {
		below := t.line(indent, len(kids) == 0, "descriptors")
		for j, f := range p.Files {
			t.line(below, j == len(p.Files)-1, "%3d %-8s %s", f.FD, f.Kind, f.Name)
		}
	}
	for n, k := range kids {
		t.process(k, indent, n == len(kids)-1)
	}
}

// line prints one node and returns the indentation of what lies below it.
func (t *tree) line(indent string, last bool, format string, args ...any) string {
	branch, below := "├── ", "│   "
	if last {
		branch, below = "└── ", "    "
	}
	fmt.Fprintln(t.w, strings.TrimRight(indent+branch+plain(fmt.Sprintf(format, args...)), " "))
	return indent + below
}

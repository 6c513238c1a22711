package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func newDoctorCommand(a *app) *cli.Command {
	var o output
	return &cli.Command{
		Name:  "doctor",
		Usage: "try everything that is needed of this host",
		Flags: o.flags(),
		Description: `    snapd-ctr doctor
    snapd-ctr doctor --json | jq '.[] | select(.verdict != "ok")'

Tries each capability of kernel, file system, network and CRIU, and prints the verdict, why, and what to do about it.
Nothing is read off a version number and nothing is left behind. Where something is missing that templates need, the
engine auto takes CRIU for all clones.` + exitStatus(13),
		Action: a.do(func(ctx context.Context, _ []string) error { return runDoctor(ctx, a, &o) }),
	}
}

// finding is a probe's result as it is printed.
type finding struct {
	Name     string `json:"name"`
	Need     string `json:"need"`
	Required bool   `json:"required"`
	Template bool   `json:"template"` // needed for templates: without it CRIU makes all clones
	Verdict  string `json:"verdict"`  // "ok", "missing", "unknown"
	Why      string `json:"why,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

func findingOf(r probe.Result) finding {
	f := finding{Name: r.Name, Need: r.Need, Required: r.Required, Template: r.Template, Verdict: "ok"}
	if r.Err == nil {
		return f
	}
	f.Verdict, f.Why = "unknown", oneLine(r.Err.Error())
	if n, ok := errors.AsType[*probe.NotSupported](r.Err); ok {
		f.Verdict, f.Why, f.Remedy = "missing", oneLine(n.Why), oneLine(n.Remedy)
	}
	return f
}

func runDoctor(ctx context.Context, a *app, o *output) error {
	cfg, err := a.global.resolve(a.getenv)
	if err != nil {
		return err
	}
	list := []finding{}
	var lacking []string
	for _, r := range probe.Run(ctx, a.probes(cfg)) {
		f := findingOf(r)
		list = append(list, f)
		if f.Required && f.Verdict != "ok" {
			lacking = append(lacking, f.Name)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := printFindings(a, o, list); err != nil || len(lacking) == 0 {
		return err
	}
	return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "doctor",
		Err:  fmt.Errorf("this host lacks what is required: %s", strings.Join(lacking, ", ")),
		Hint: "each has a remedy in the list"}
}

func printFindings(a *app, o *output, list []finding) error {
	if o.asJSON() {
		return writeJSON(a.stdout, list)
	}
	t := newTable(a.stdout, "NAME", "VERDICT", "NEEDED FOR")
	for _, f := range list {
		verdict := f.Verdict
		switch {
		case verdict == "ok":
		case f.Required:
			verdict += " (required)"
		case f.Template:
			verdict += " (no templates)"
		}
		t.row(f.Name, verdict, f.Need)
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, f := range list {
		if f.Verdict == "ok" {
			continue
		}
		fmt.Fprintf(a.stdout, "\n%s: %s\n", f.Name, plain(f.Why))
		if f.Remedy != "" {
			fmt.Fprintf(a.stdout, "    remedy: %s\n", plain(f.Remedy))
		}
	}
	return nil
}

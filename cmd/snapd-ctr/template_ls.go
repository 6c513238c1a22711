package main

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func newTemplateLsCommand(a *app) *cli.Command {
	var o output
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list templates",
		Flags:   o.flags(),
		Description: `    snapd-ctr template ls
    snapd-ctr template ls --json | jq 'map(.resident_bytes) | add'

RESIDENT is all memory of the process, PSS its share where clones have the same, HUGE how much of it lies in huge pages.
STATE is pinned, or idle where the template ends a while after the last clone. A pinned one without a PID has died and is
being built again.` + exitStatus(),
		Action: a.serve(func(ctx context.Context, svc api.Service, _ []string) error { return runTemplateLs(ctx, a, svc, &o) }),
	}
}

func runTemplateLs(ctx context.Context, a *app, svc api.Service, o *output) error {
	// One shim that does not answer does not hide the others.
	list, silent := svc.Templates(ctx)
	if silent != nil && len(list) == 0 {
		return silent
	}
	return errors.Join(printTemplates(a, o, list), silent)
}

func printTemplates(a *app, o *output, list []*api.Template) error {
	if o.asJSON() {
		if list == nil {
			list = []*api.Template{}
		}
		return writeJSON(a.stdout, list)
	}
	t := newTable(a.stdout, "SNAPSHOT", "ID", "PID", "BUILT IN", "RESIDENT", "PSS", "HUGE", "CLONES", "STATE", "AGE")
	for _, m := range list {
		pid := ""
		if m.Pid != 0 {
			pid = strconv.Itoa(m.Pid)
		}
		t.row(strings.Join(m.Names, ","), shortID(m.Snapshot), pid, msText(m.BuildMS), bytesText(m.ResidentBytes), bytesText(m.PSSBytes),
			bytesText(m.HugeBytes), strconv.FormatInt(m.Clones, 10), string(m.State), ageText(a.now(), m.Built))
	}
	return t.flush()
}

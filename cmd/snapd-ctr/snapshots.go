package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// newSnapshotsCommand groups the commands for snapshots in the store; each has a file of its own.
func newSnapshotsCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:  "snapshots",
		Usage: "list, look into, move and delete snapshots",
		Description: `    snapd-ctr snapshots ls
    snapd-ctr snapshots inspect warm
    snapd-ctr snapshots export warm warm.tar

A snapshot is named by its name, its id, or a beginning of its id that no other has.`,
		Subcommands: []*cli.Command{
			newSnapshotsLsCommand(a), newSnapshotsShowCommand(a), newSnapshotsInspectCommand(a),
			newSnapshotsDiffCommand(a), newSnapshotsVerifyCommand(a), newSnapshotsRmCommand(a), newSnapshotsTagCommand(a),
			newSnapshotsExportCommand(a), newSnapshotsImportCommand(a), newSnapshotsGCCommand(a),
		},
	}
}

// verdictText says in a few words which engines can clone a snapshot.
func verdictText(vs []snapshot.Verdict) string {
	var ok []string
	for _, v := range vs {
		if v.OK {
			ok = append(ok, v.Engine)
		}
	}
	return strings.Join(ok, ",")
}

func sourceText(s snapshot.Source) string {
	name := s.Name
	if name == "" {
		name = shortID(s.ID)
	}
	if s.Runtime == "" || s.Runtime == "own" {
		return name
	}
	return fmt.Sprintf("%s:%s", s.Runtime, name)
}

package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"
)

func newVersionCommand(a *app) *cli.Command {
	var o output
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Flags: o.flags(),
		Description: `    snapd-ctr version
    snapd-ctr version --json | jq -r .version` + exitStatus(),
		Action: a.do(func(context.Context, []string) error {
			if o.asJSON() {
				return writeJSON(a.stdout, versionView{version, runtime.Version(), runtime.GOOS, runtime.GOARCH})
			}
			return a.writeVersion()
		}),
	}
}

// versionView is the version as JSON shows it.
type versionView struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (a *app) writeVersion() error {
	_, err := fmt.Fprintf(a.stdout, "snapd-ctr %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"
)

func newVersionCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print the version",
		Description: `    snapd-ctr version` + exitStatus(),
		Action:      a.do(func(context.Context, []string) error { return a.writeVersion() }),
	}
}

func (a *app) writeVersion() error {
	_, err := fmt.Fprintf(a.stdout, "snapd-ctr %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

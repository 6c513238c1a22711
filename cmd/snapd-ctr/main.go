// Command snapd-ctr snapshots warmed containers and starts clones of them.
//
// It parses and prints, nothing else: what is done is done behind [api.Service]. One file holds one command.
package main

import (
	"context"
	"os"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template"
)

// version is set by the linker.
var version = "devel"

func main() {
	a := &app{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: os.Getenv,
		now:    time.Now,
		open: func(ctx context.Context, c api.Config) (api.Service, error) {
			svc, err := api.OpenLocal(ctx, c)
			if err != nil {
				return nil, err // not svc: a nil *Local would be a Service that is not nil
			}
			return svc, nil
		},
		probes: func(c api.Config) []probe.Probe {
			stub := func(ctx context.Context) error { return template.TryStub(ctx, template.StubOf(c.Shim)) }
			return append(probe.Host(), probe.StateDir(c.Root), probe.CRIU(criu.Tool{Path: c.CRIU}.Check), probe.Stub(stub))
		},
	}
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

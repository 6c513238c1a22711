package main

import (
	"context"
	"os"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/restore"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// engine makes clones. The root file system of a clone is mounted at rootfs in its directory, what else is mounted for it
// lies below mounts there. A clone that cannot be completed leaves nothing behind.
type engine interface {
	Clone(ctx context.Context, id string, r shim.CloneRequest) (*restore.Result, error)
}

// memoryVariable is "eager" when clones are to have all of their memory before they run.
const memoryVariable = "SNAPD_CTR_MEMORY"

// newEngine returns the engine "criu".
func newEngine(paths shim.Paths, bridge sandbox.Bridge) engine {
	e := &restore.Engine{Tool: criu.Tool{Path: paths.CRIU}, Root: paths.Root, Bridge: bridge}
	if os.Getenv(memoryVariable) != "eager" {
		// Clones are children of this thread, which lives as long as the shim: they get a signal when it ends.
		e.Tool.Launch, e.Lazy = sys.NewThread().Do, true
	}
	return e
}

package main

import (
	"context"
	"os"
	"path/filepath"
	"sync"

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
	return &criuEngine{paths: paths, bridge: bridge}
}

// criuEngine is the engine with CRIU's cache of kernel features, made when the first clone is asked for.
type criuEngine struct {
	paths  shim.Paths
	bridge sandbox.Bridge

	mu   sync.Mutex
	warm *restore.Engine
}

func (e *criuEngine) Clone(ctx context.Context, id string, r shim.CloneRequest) (*restore.Result, error) {
	engine, err := e.get(ctx)
	if err != nil {
		return nil, err
	}
	return engine.Clone(ctx, id, r)
}

func (e *criuEngine) get(ctx context.Context) (*restore.Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.warm == nil {
		tool, err := criu.Tool{Path: e.paths.CRIU}.Warm(ctx, filepath.Clean(e.paths.Run))
		if err != nil {
			return nil, err
		}
		e.warm = &restore.Engine{Tool: tool, Root: e.paths.Root, Bridge: e.bridge}
		if mounted, err := tool.MountCache(); err == nil && os.Getenv(memoryVariable) != "eager" {
			// Clones are children of this thread, which lives as long as the shim: they get a signal when it ends.
			mounted.Launch = sys.NewThread().Do
			e.warm.Tool, e.warm.Lazy = mounted, true
		}
	}
	return e.warm, nil
}

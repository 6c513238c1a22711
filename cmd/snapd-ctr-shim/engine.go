package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

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

// guardArg, the only argument, makes this program the guard of a shim's clones. Its socket is at guardFD.
const (
	guardArg    = "guard"
	guardFD     = 3
	guardLinger = 2 * time.Second // a clone is killed in milliseconds
)

// newEngine returns the engine "criu". Clones are children of one thread, which lives as long as the shim: they get
// SIGKILL when it ends, however they got their memory.
func newEngine(paths shim.Paths, bridge sandbox.Bridge, log *slog.Logger) engine {
	e := &restore.Engine{Tool: criu.Tool{Path: paths.CRIU, Launch: sys.NewThread().Do}, Root: paths.Root, Bridge: bridge}
	if os.Getenv(memoryVariable) == "eager" {
		return e
	}
	guard, err := startGuard()
	if err != nil {
		log.Warn("clones get all their memory before they run", "error", err)
		return e
	}
	e.Guard, e.Lazy = guard, true
	return e
}

func startGuard() (*sys.Guard, error) {
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", guardArg)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signal of a terminal is for it
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	go func() { _ = cmd.Wait() }()
	return sys.NewGuard(ours), nil
}

func guard([]string) error {
	return sys.GuardOthers(os.NewFile(guardFD, "guard"), guardLinger)
}

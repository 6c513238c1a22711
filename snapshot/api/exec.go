package api

import (
	"context"
	"os"

	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/spec"
)

// ProgramError is a container's program that could not be started: what [Service.Run] and [Service.Exec] return where the
// program is to blame.
type ProgramError = shim.ProgramError

// execIn runs a program in a container of the shim, on the caller's descriptors.
func execIn(ctx context.Context, client *shim.Client, id string, r ExecRequest) (int, error) {
	if err := spec.CheckWorkdir(r.Workdir); err != nil {
		return 0, err
	}
	q := shim.ExecRequest{Args: r.Args, Env: r.Env, Workdir: r.Workdir, User: r.User, TTY: r.TTY}
	if r.TTY {
		return execTerminal(ctx, client, id, q, r)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []*os.File{r.Stdin, r.Stdout, r.Stderr}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	return client.Exec(ctx, id, q, files, nil)
}

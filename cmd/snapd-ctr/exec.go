package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type execOptions struct {
	tty         bool
	interactive bool
	env         cli.StringSlice
	workdir     string
	user        string
}

func newExecCommand(a *app) *cli.Command {
	var o execOptions
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a program in a container",
		ArgsUsage: "CONTAINER [--] COMMAND [ARG...]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Destination: &o.tty, Usage: "give the program a terminal"},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Destination: &o.interactive, Usage: "pass on standard input"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Destination: &o.env,
				Usage: "set `NAME=VALUE` in the environment, or pass on NAME; can be repeated"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Destination: &o.workdir, Usage: "start in `DIR` of the container"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Destination: &o.user, Usage: "run as `USER`: UID[:GID] or NAME[:GROUP]"},
		},
		Description: `    snapd-ctr exec web cat /etc/hostname
    snapd-ctr exec -it web sh

Runs a program in a running container and exits with its status. Flags stand before CONTAINER: what follows it belongs
to the program.` + exitStatus(codeRunFailed, 126, 127),
		Action: a.do(func(ctx context.Context, args []string) error {
			r, err := o.request(a, args[0], args[1:])
			if err != nil {
				return err
			}
			if err := a.with(ctx, func(svc api.Service) error { return runExec(ctx, a, svc, args[0], r) }); err != nil {
				return ownError{err} // where it is not the program's status
			}
			return nil
		}),
	}
}

func runExec(ctx context.Context, a *app, svc api.Service, ref string, r api.ExecRequest) error {
	if r.TTY {
		restore, err := a.rawTerminal()
		if err != nil {
			return err
		}
		defer restore()
	}
	status, err := svc.Exec(ctx, ref, r)
	if err != nil {
		return err
	}
	if status != 0 {
		return statusError(status)
	}
	return nil
}

func (o *execOptions) request(a *app, ref string, args []string) (api.ExecRequest, error) {
	r := api.ExecRequest{Workdir: o.workdir, User: o.user, TTY: o.tty, Stdout: a.stdout, Stderr: a.stderr}
	if args[0] == "--" {
		args = args[1:]
	} else if strings.HasPrefix(args[0], "-") {
		return r, usagef("flags stand before CONTAINER").hinted("did you mean: snapd-ctr exec %s %s …?", args[0], ref)
	}
	if len(args) == 0 {
		return r, usagef("COMMAND is missing").hinted("usage: snapd-ctr exec [flags] CONTAINER COMMAND [ARG...]")
	}
	if o.tty && !term.IsTerminal(int(a.stdin.Fd())) {
		return r, usagef("-t: standard input is not a terminal").hinted("leave -t out")
	}
	if o.tty || o.interactive {
		r.Stdin = a.stdin
	}
	r.Args = args
	var err error
	r.Env, err = environment(o.env.Value())
	return r, err
}

// rawTerminal makes the terminal pass on every key, and returns what makes it as it was.
func (a *app) rawTerminal() (restore func(), err error) {
	fd := int(a.stdin.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	back := func() { _ = term.Restore(fd, old) }
	a.signals.onLeave(back)
	return func() {
		a.signals.onLeave(nil)
		back()
	}, nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// app is one run of the program, and everything outside it that it touches.
type app struct {
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	getenv func(string) string
	now    func() time.Time
	open   func(context.Context, api.Config) (api.Service, error)
	probes func(api.Config) []probe.Probe

	global  globalOptions
	json    bool // errors are printed as JSON
	signals signals
}

// action is what a command does. args are its positional arguments; their number has been checked.
type action func(ctx context.Context, args []string) error

// serviceAction is an action that calls the service.
type serviceAction func(ctx context.Context, svc api.Service, args []string) error

// main runs the program with the arguments that follow its name, and returns the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	c := a.cli()
	ar, err := arrange(c, args)
	if err != nil {
		return a.report(err, ar.path, wantsJSON(args))
	}
	a.json = ar.json
	ctx, stop := a.signals.watch(ctx, a.stderr)
	defer stop()
	return a.report(a.dispatch(ctx, c, ar), ar.path, ar.json)
}

func (a *app) dispatch(ctx context.Context, c *cli.App, ar arranged) error {
	switch {
	case ar.help || len(ar.path) == 0 && !ar.version:
		return writeHelp(a.stdout, c, ar.command, ar.path)
	case ar.version:
		return a.writeVersion()
	}
	err := c.RunContext(ctx, append([]string{c.Name}, ar.argv...))
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), errInterrupted) {
		return interrupted{err}
	}
	return err
}

// cli describes the program to the library that takes its arguments apart. What that library would print or decide by
// itself (help, suggestions, exit codes) is switched off.
func (a *app) cli() *cli.App {
	c := &cli.App{
		Name:                      "snapd-ctr",
		Usage:                     "snapshot a warmed container once, start many clones of it",
		Flags:                     a.global.flags(),
		HideHelp:                  true,
		HideHelpCommand:           true,
		HideVersion:               true,
		DisableSliceFlagSeparator: true,
		Writer:                    a.stderr,
		ErrWriter:                 a.stderr,
		ExitErrHandler:            func(*cli.Context, error) {},
		Before: func(*cli.Context) error {
			slog.SetDefault(slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: a.global.level()})))
			return nil
		},
		Commands: []*cli.Command{
			newRunCommand(a), newSnapshotCommand(a), newCloneCommand(a), newForkCommand(a),
			newPsCommand(a), newExecCommand(a), newLogsCommand(a), newStopCommand(a), newKillCommand(a),
			newRmCommand(a), newWaitCommand(a), newInspectCommand(a), newStatsCommand(a),
			newSnapshotsCommand(a), newTemplateCommand(a), newFsckCommand(a), newDoctorCommand(a),
			newCompletionCommand(a), newCompleteCommand(a), newManCommand(a), newVersionCommand(a), newHelpCommand(a),
		},
	}
	c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return &usageError{message: err.Error()} }
	for cmd := range allCommands(c.Commands) {
		cmd.HideHelp, cmd.HideHelpCommand = true, true
		cmd.OnUsageError = c.OnUsageError
	}
	return c
}

// do makes an action of the library's out of one of ours.
func (a *app) do(f action) cli.ActionFunc {
	return func(c *cli.Context) error { return f(c.Context, c.Args().Slice()) }
}

// serve is do for actions that need the service, which it opens and closes.
func (a *app) serve(f serviceAction) cli.ActionFunc {
	return a.do(func(ctx context.Context, args []string) error {
		return a.with(ctx, func(svc api.Service) error { return f(ctx, svc, args) })
	})
}

// with calls f with the service, which it opens and closes. Commands that can be misused check that first.
func (a *app) with(ctx context.Context, f func(api.Service) error) (err error) {
	svc, err := a.service(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := svc.Close(); err == nil {
			err = cerr
		}
	}()
	return f(svc)
}

func (a *app) service(ctx context.Context) (api.Service, error) {
	cfg, err := a.global.resolve(a.getenv)
	if err != nil {
		return nil, err
	}
	return a.open(ctx, cfg)
}

// words writes a line for people to standard error.
func (a *app) words(format string, args ...any) {
	fmt.Fprintf(a.stderr, format+"\n", args...)
}

// each does f for every ref and goes on after failures, which it prints, unless there is but one ref, with hints: the same
// one not twice in a row. The error is of kind partial when only some failed.
func (a *app) each(refs []string, f func(ref string) error) error {
	var failed []error
	for _, ref := range refs {
		if err := f(ref); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	if len(failed) == 1 && len(refs) == 1 {
		return failed[0]
	}
	said := ""
	for _, err := range failed {
		if a.json {
			_ = json.NewEncoder(a.stderr).Encode(judge(err))
			continue
		}
		a.words("snapd-ctr: %s", oneLine(err.Error()))
		if hint := oneLine(snapshot.HintOf(err)); hint != "" && hint != said {
			a.words("hint: %s", hint)
			said = hint
		}
	}
	return severalError{failed: failed, of: len(refs)}
}

// oneLine keeps a message to one line.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

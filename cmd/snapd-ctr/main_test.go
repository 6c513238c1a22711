package main

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"snapd-ctr": func() { os.Exit(fakeApp().main(context.Background(), os.Args[1:])) }})
}

// fakeApp is the program on a fake host.
func fakeApp() *app {
	return &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, now: clock,
		open: func(_ context.Context, c api.Config) (api.Service, error) {
			f := fake{empty: os.Getenv("FAKE_EMPTY") != ""}
			f.note("open", c)
			return f, nil
		},
		probes: func(c api.Config) []probe.Probe {
			one := func(name string, required bool, err error) probe.Probe {
				return probe.Probe{Name: name, Need: "testing", Required: required, Run: func(context.Context) error { return err }}
			}
			ps := []probe.Probe{one("good", true, nil), one("odd", false, errors.New("cannot tell"))}
			if os.Getenv("FAKE_LACKING") != "" {
				ps = append(ps, one("bad", true, &probe.NotSupported{Name: "bad", Why: "not in " + c.Root, Remedy: "get " + c.CRIU}))
				slow := one("forks", false, &probe.NotSupported{Name: "forks", Why: "none", Remedy: "wait"})
				slow.Template = true
				ps = append(ps, slow)
			}
			return ps
		},
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("FAKE_LOG", e.WorkDir+"/requests")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would hold up each of many short processes for a second
			e.Setenv("SNAPD_CTR_CRIU", "/fake/criu")
			e.Setenv("SNAPD_CTR_SHIM", "/fake/shim")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"rc": exitCodeIs},
	})
}

// exitCodeIs runs a command and compares its exit code: rc CODE COMMAND [ARG...].
func exitCodeIs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: rc CODE COMMAND [ARG...]")
	}
	// The shell says the code; testscript itself knows only success and failure.
	sh := append([]string{"-c", `"$@"; code=$?; [ $code = "$0" ] || { echo "exit code $code, not $0" >&2; exit 1; }`}, args...)
	ts.Check(ts.Exec("sh", sh...))
}

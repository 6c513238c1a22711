package probetest

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
)

// These probes ask for what only tests need, so they are not among those of the host, which users get to see.

// Program returns the probe for a program in PATH that `make test` does not install. remedy says what does.
func Program(program, remedy string) probe.Probe {
	name := "program-" + program
	return probe.Probe{Name: name, Need: "tests that run " + program, Run: func(context.Context) error {
		if _, err := exec.LookPath(program); err != nil {
			return &probe.NotSupported{Name: name, Why: err.Error(), Remedy: remedy}
		}
		return nil
	}}
}

// Architecture returns the probe for a kind of machine, by Go's name of it.
func Architecture(goarch string) probe.Probe {
	const name = "architecture"
	return probe.Probe{Name: name, Need: "tests that hold for " + goarch, Run: func(context.Context) error {
		if runtime.GOARCH != goarch {
			return &probe.NotSupported{Name: name, Why: fmt.Sprintf("this machine is %s, not %s", runtime.GOARCH, goarch),
				Remedy: "run the tests on " + goarch}
		}
		return nil
	}}
}

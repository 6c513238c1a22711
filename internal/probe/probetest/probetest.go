// Package probetest is the only way in which a test may be skipped: through a probe that says that the host cannot.
package probetest

import (
	"errors"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
)

// Need skips the test where the probe of that name, one of [probe.Host], says that this host lacks the capability. It
// fails the test where there is no such probe, and where the probe could not find out.
func Need(t testing.TB, name string) {
	t.Helper()
	for _, p := range probe.Host() {
		if p.Name == name {
			NeedProbe(t, p)
			return
		}
	}
	t.Fatalf("there is no probe named %q", name)
}

// NeedProbe is Need for any probe.
func NeedProbe(t testing.TB, p probe.Probe) {
	t.Helper()
	switch err := p.Run(t.Context()); {
	case errors.Is(err, probe.ErrNotSupported):
		t.Skipf("this host lacks what the test needs: %v", err)
	case err != nil:
		t.Fatalf("%s: %v", p.Name, err)
	}
}

// Package probetest is the only way in which a test may be skipped: through a probe that says that the host cannot.
// What `make test` sets up is no reason for a skip: a test that lacks it fails. Package deptest has the test that holds
// all others to this.
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
	err := p.Run(t.Context())
	if missing, ok := errors.AsType[*probe.NotSupported](err); ok {
		t.Skipf("this host lacks what the test needs: %v; to have it run: %s", err, missing.Remedy)
	} else if err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
}

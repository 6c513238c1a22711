package probetest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
)

// recorder is a test that notes how it would have ended.
type recorder struct {
	testing.TB
	ctx             context.Context
	skipped, failed bool
	said            string
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Skipf(format string, args ...any) {
	r.skipped, r.said = true, fmt.Sprintf(format, args...)
}
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

func TestNeed(t *testing.T) {
	for _, c := range []struct {
		err          error
		skips, fails bool
	}{
		{nil, false, false},
		{fmt.Errorf("wrapped: %w", &probe.NotSupported{Name: "x"}), true, false},
		{errors.New("could not find out"), false, true},
	} {
		r := &recorder{ctx: t.Context()}
		probetest.NeedProbe(r, probe.Probe{Name: "x", Run: func(context.Context) error { return c.err }})
		if r.skipped != c.skips || r.failed != c.fails {
			t.Errorf("%v: skipped %v, failed %v", c.err, r.skipped, r.failed)
		}
	}
	r := &recorder{ctx: t.Context()}
	if probetest.Need(r, "no-such-probe"); !r.failed {
		t.Error("a name that is no probe's is let through")
	}
}

// A test that is skipped says what is missing, and what to do about it.
func TestProbesOfTests(t *testing.T) {
	for _, c := range []struct {
		probe probe.Probe
		skips bool
		says  []string
	}{
		{probetest.Program("sh", "install a shell"), false, nil},
		{probetest.Program("no-such-program", "write it"), true, []string{"program-no-such-program: ", "not found", "write it"}},
		{probetest.Architecture(runtime.GOARCH), false, nil},
		{probetest.Architecture("abacus"), true, []string{"this machine is " + runtime.GOARCH + ", not abacus", "run the tests on abacus"}},
	} {
		r := &recorder{ctx: t.Context()}
		probetest.NeedProbe(r, c.probe)
		if r.skipped != c.skips || r.failed {
			t.Errorf("%s: skipped %v, failed %v", c.probe.Need, r.skipped, r.failed)
		}
		for _, piece := range c.says {
			if !strings.Contains(r.said, piece) {
				t.Errorf("%s: says %q and not %q", c.probe.Need, r.said, piece)
			}
		}
		if slices.ContainsFunc(probe.Host(), func(p probe.Probe) bool { return p.Name == c.probe.Name }) {
			t.Errorf("users get to see %s", c.probe.Name)
		}
	}
}

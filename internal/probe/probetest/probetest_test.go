package probetest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
)

// recorder is a test that notes how it would have ended.
type recorder struct {
	testing.TB
	ctx             context.Context
	skipped, failed bool
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Skipf(string, ...any)     { r.skipped = true }
func (r *recorder) Fatalf(string, ...any)    { r.failed = true }

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

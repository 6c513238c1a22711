// Package probe asks this host, one capability at a time, whether it can do what snapd-ctr needs.
//
// A probe tries the thing itself and never reads it off a version number. It works in namespaces, threads or processes
// of its own where it would disturb the caller, and leaves nothing behind. Tests may skip only through a probe: see
// package probetest.
package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
)

// ErrNotSupported is what every [NotSupported] is.
var ErrNotSupported = errors.New("not supported by this host")

// NotSupported is a probe's answer that the host lacks the capability. Any other error of a probe means that it
// could not find out.
type NotSupported struct {
	Name   string // of the probe
	Why    string // what was tried and what came of it
	Remedy string // what the user can do about it
}

func (e *NotSupported) Error() string { return e.Name + ": " + e.Why }

// Is makes a NotSupported an [ErrNotSupported].
func (e *NotSupported) Is(target error) bool { return target == ErrNotSupported }

// Probe asks for one capability.
type Probe struct {
	Name     string
	Need     string // what it is needed for
	Required bool   // without it nothing works; otherwise something is slower, or one feature is missing
	Template bool   // without it there are no templates: clones are made by CRIU
	Run      func(context.Context) error
}

// Result is what a probe found.
type Result struct {
	Probe
	Err error
}

// limit is how long a probe may take: all of them are a few system calls or one short child process.
const limit = 20 * time.Second

// Run runs the probes one after another. When ctx ends, those that are left have its error.
func Run(ctx context.Context, probes []Probe) []Result {
	results := make([]Result, len(probes))
	for i, p := range probes {
		results[i] = Result{Probe: p, Err: runOne(ctx, p)}
	}
	return results
}

func runOne(ctx context.Context, p Probe) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A test can have a host that lacks it.
	if err := fault.Point("probe." + p.Name); err != nil {
		return &NotSupported{Name: p.Name, Why: err.Error(), Remedy: "take it out of " + fault.Variable}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return p.Run(ctx)
}

// try makes a probe of a function that fails where the capability is missing.
func try(name, need, remedy string, required bool, f func() error) Probe {
	return Probe{Name: name, Need: need, Required: required, Run: func(context.Context) error {
		if err := f(); err != nil {
			return &NotSupported{Name: name, Why: err.Error(), Remedy: remedy}
		}
		return nil
	}}
}

// unknown marks an error that says nothing about the capability.
func unknown(name string, err error) error { return fmt.Errorf("probe %s: %w", name, err) }

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// series is one thing measured several times, in the unit of its row.
type series struct {
	Values []float64 `json:"values"`
}

func (s *series) add(v float64) { s.Values = append(s.Values, v) }

// quantile returns the smallest value that at least the share q of all values does not exceed; NaN where there is none.
func (s *series) quantile(q float64) float64 {
	if s == nil || len(s.Values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(s.Values))
	return v[min(len(v), max(1, int(math.Ceil(q*float64(len(v))))))-1]
}

func (s *series) median() float64 { return s.quantile(0.5) }

// scaled returns a series of all values, multiplied.
func (s *series) scaled(by float64) *series {
	out := &series{}
	for _, v := range s.Values {
		out.add(v * by)
	}
	return out
}

// steps are the times of the phases of many clones, in the order in which the phases were first seen.
type steps struct {
	What  string   `json:"what"`
	Names []string `json:"names"`
	// MS has the times of each phase. A phase that a clone did not have counts as no time.
	MS map[string]*series `json:"ms"`

	clones int
}

// remainder is the part of a clone's time that no phase accounts for.
const remainder = "(between the steps)"

func newSteps(what string) *steps { return &steps{What: what, MS: make(map[string]*series)} }

// add takes in the phases of a clone that took total milliseconds.
func (s *steps) add(total float64, phases []snapshot.Phase) {
	sum := make(map[string]float64)
	phases = leaves(phases)
	for _, p := range phases {
		if s.MS[p.Name] == nil {
			s.MS[p.Name] = &series{Values: make([]float64, s.clones)}
			s.Names = append(s.Names, p.Name)
		}
		sum[p.Name] += p.MS
		total -= p.MS
	}
	if s.MS[remainder] == nil {
		s.MS[remainder] = &series{Values: make([]float64, s.clones)}
	}
	sum[remainder] = total
	for name, v := range s.MS {
		v.add(sum[name])
	}
	s.clones++
}

// leaves leaves out the step of the shim that the engine reports the steps of.
func leaves(phases []snapshot.Phase) []snapshot.Phase {
	is := func(name string) func(snapshot.Phase) bool {
		return func(p snapshot.Phase) bool { return p.Name == name }
	}
	if !slices.ContainsFunc(phases, is("fork")) {
		return phases
	}
	return slices.DeleteFunc(slices.Clone(phases), is(string(snapshot.EffectRestore)))
}

// line says the median of each step.
func (s *steps) line() string {
	var parts []string
	for _, name := range append(slices.Clone(s.Names), remainder) {
		if v := s.MS[name]; v != nil {
			parts = append(parts, fmt.Sprintf("%s %.0f", name, v.median()*1000))
		}
	}
	return s.What + ", median µs of each step: " + strings.Join(parts, " · ")
}

func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

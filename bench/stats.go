package main

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// series is one thing measured several times, in milliseconds.
type series struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values_ms"`
}

func (s *series) add(ms float64) { s.Values = append(s.Values, ms) }

// quantile returns the smallest value that at least the share q of all values does not exceed.
func (s *series) quantile(q float64) float64 {
	if len(s.Values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(s.Values))
	return v[max(0, int(math.Ceil(q*float64(len(v))))-1)]
}

func (s *series) median() float64 { return s.quantile(0.5) }

// figure is one row of the table: ours against theirs, with the ratio of the medians that the project set itself.
type figure struct {
	What   string  `json:"what"`
	Ours   *series `json:"ours"`
	Theirs *series `json:"theirs,omitempty"`
	Must   float64 `json:"must_ratio,omitempty"` // ours at least so many times faster
	Aim    float64 `json:"aim_ratio,omitempty"`  //
	MustMS float64 `json:"must_ms,omitempty"`    // or: ours at most so long
	AimMS  float64 `json:"aim_ms,omitempty"`     //
}

func (f *figure) ratio() float64 { return f.Theirs.median() / f.Ours.median() }

func (f *figure) verdict() string {
	if f.MustMS > 0 {
		return grade(f.Ours.median() <= f.MustMS, f.Ours.median() <= f.AimMS, fmt.Sprintf("< %.0f ms", f.MustMS), fmt.Sprintf("< %.0f ms", f.AimMS))
	}
	if f.Must == 0 {
		return ""
	}
	return grade(f.ratio() >= f.Must, f.ratio() >= f.Aim, fmt.Sprintf("%.0f×", f.Must), fmt.Sprintf("%.0f×", f.Aim))
}

func grade(must, aim bool, mustText, aimText string) string {
	switch {
	case aim:
		return "aim of " + aimText + " reached"
	case must:
		return "must of " + mustText + " reached, aim of " + aimText + " not"
	default:
		return "**must of " + mustText + " missed**"
	}
}

func (b *bench) print(w io.Writer) {
	fmt.Fprintf(w, "## snapd-ctr against runc\n\n")
	for _, f := range b.facts {
		fmt.Fprintf(w, "* %s\n", f)
	}
	fmt.Fprintf(w, "\n| measured (ms) | n | snapd-ctr p50 | p99 | runc p50 | p99 | ratio | |\n|---|---|---|---|---|---|---|---|\n")
	for i := range b.figures {
		f := &b.figures[i]
		theirs, ratio := "| |", ""
		if f.Theirs != nil {
			theirs = fmt.Sprintf("%.1f | %.1f |", f.Theirs.median(), f.Theirs.quantile(0.99))
			ratio = fmt.Sprintf("%.1f×", f.ratio())
		}
		fmt.Fprintf(w, "| %s | %d | %.1f | %.1f | %s %s | %s |\n", f.What, len(f.Ours.Values), f.Ours.median(),
			f.Ours.quantile(0.99), theirs, ratio, f.verdict())
	}
	fmt.Fprintln(w)
	for _, n := range b.notes {
		fmt.Fprintf(w, "* %s\n", n)
	}
}

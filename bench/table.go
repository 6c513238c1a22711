package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// row is one thing measured: of the template engine, of the criu engine, and of what runc does in its place. Any of the
// three may be missing.
type row struct {
	What     string  `json:"what"`
	Unit     string  `json:"unit"`           // "ms", "MB", "/s", "×"
	More     bool    `json:"more,omitempty"` // the more the better
	Template *series `json:"template,omitempty"`
	CRIU     *series `json:"criu,omitempty"`
	Runc     *series `json:"runc,omitempty"`
	Goals    []goal  `json:"goals,omitempty"`
}

// goal is what the project set itself for one of the engines.
type goal struct {
	Engine string `json:"engine"` // a column
	// TimesRunc has the bounds be how many times faster than runc the engine is, by the medians.
	TimesRunc bool  `json:"times_runc,omitempty"`
	Must      bound `json:"must"`
	Aim       bound `json:"aim"`
}

// bound is what the median and the slow end of a series may be at worst. Zero stands for no bound.
type bound struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99,omitempty"`
}

// The columns of the table.
const (
	columnTemplate = "template"
	columnCRIU     = "criu"
	columnRunc     = "runc"
)

// atMost is a goal of the template engine, in the unit of the row.
func atMost(must, aim bound) []goal { return []goal{{Engine: columnTemplate, Must: must, Aim: aim}} }

// timesRunc is a goal of the criu engine.
func timesRunc(must, aim float64) goal {
	return goal{Engine: columnCRIU, TimesRunc: true, Must: bound{P50: must}, Aim: bound{P50: aim}}
}

func (r *row) column(name string) *series {
	return map[string]*series{columnTemplate: r.Template, columnCRIU: r.CRIU, columnRunc: r.Runc}[name]
}

// tail is the slow end of a series.
func (r *row) tail(s *series) float64 {
	if r.More {
		return s.quantile(0.01)
	}
	return s.quantile(0.99)
}

func (r *row) ratio(engine string) float64 { return r.Runc.median() / r.column(engine).median() }

func (r *row) meets(g goal, b bound) bool {
	s := r.column(g.Engine)
	switch {
	case g.TimesRunc:
		return r.ratio(g.Engine) >= b.P50
	case r.More:
		return s.median() >= b.P50 && (b.P99 == 0 || r.tail(s) >= b.P99)
	default:
		return s.median() <= b.P50 && (b.P99 == 0 || r.tail(s) <= b.P99)
	}
}

// verdict says for each goal whether it was reached.
func (r *row) verdict() string {
	var out []string
	for _, g := range r.Goals {
		if r.column(g.Engine) == nil || g.TimesRunc && r.Runc == nil {
			out = append(out, g.Engine+" not measured")
			continue
		}
		unit, before := r.Unit, ""
		if g.TimesRunc {
			unit, before = "×", fmt.Sprintf("criu %s× runc: ", number(r.ratio(g.Engine)))
		}
		must := "must " + g.Must.text(unit) + " reached"
		if !r.meets(g, g.Must) {
			must = "**must " + g.Must.text(unit) + " not reached**"
		}
		aim := "aim " + g.Aim.text(unit) + " reached"
		if !r.meets(g, g.Aim) {
			aim = "aim " + g.Aim.text(unit) + " not reached"
		}
		out = append(out, before+must+", "+aim)
	}
	return strings.Join(out, "; ")
}

func (b bound) text(unit string) string {
	s := fmt.Sprintf("%g", b.P50)
	if b.P99 != 0 {
		s += fmt.Sprintf(" / %g", b.P99)
	}
	if strings.HasPrefix(unit, "/") || unit == "×" {
		return s + unit
	}
	return s + " " + unit
}

// number writes a number with three digits, as far as they mean something.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "?"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// cells are the count, the median and the slow end of one column.
func (r *row) cells(s *series) string {
	if s == nil {
		return "| "
	}
	return number(s.median()) + " | " + number(r.tail(s)) + " "
}

// count says how often each column was measured: once where all are the same.
func (r *row) count() string {
	var out []string
	same := true
	for _, s := range []*series{r.Template, r.CRIU, r.Runc} {
		if s == nil {
			continue
		}
		out = append(out, fmt.Sprint(len(s.Values)))
		same = same && out[len(out)-1] == out[0]
	}
	if same && len(out) > 0 {
		return out[0]
	}
	return strings.Join(out, ", ")
}

func (r *result) print(w io.Writer) {
	fmt.Fprintf(w, "## snapd-ctr, by engine, beside runc\n\n")
	for _, f := range r.Facts {
		fmt.Fprintf(w, "* %s\n", f)
	}
	fmt.Fprintf(w, "\n| measured | | n | template p50 | p99 | criu p50 | p99 | runc p50 | p99 | |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		fmt.Fprintf(w, "| %s | %s | %s | %s| %s| %s| %s |\n", row.What, row.Unit, row.count(),
			row.cells(row.Template), row.cells(row.CRIU), row.cells(row.Runc), row.verdict())
	}
	fmt.Fprintln(w)
	for _, s := range r.Steps {
		fmt.Fprintf(w, "* %s\n", s.line())
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "* %s\n", n)
	}
	for _, f := range r.Failed {
		fmt.Fprintf(w, "* **failed:** %s\n", f)
	}
}

package main

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestQuantile(t *testing.T) {
	hundred := &series{}
	for i := range 100 {
		hundred.add(float64(100 - i))
	}
	for _, c := range []struct {
		s    *series
		q    float64
		want float64
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0.01, 1}, {hundred, 0, 1},
		{&series{Values: []float64{7}}, 0.5, 7}, {&series{Values: []float64{7}}, 0.99, 7},
		{&series{Values: []float64{3, 1, 2}}, 0.5, 2}, {&series{Values: []float64{3, 1}}, 0.5, 1},
	} {
		if got := c.s.quantile(c.q); got != c.want {
			t.Errorf("quantile %g of %d values: %g, want %g", c.q, len(c.s.Values), got, c.want)
		}
	}
	if !slices.Equal(hundred.Values[:2], []float64{100, 99}) {
		t.Error("the values were sorted in place")
	}
	var none *series
	if !math.IsNaN(none.median()) || !math.IsNaN((&series{}).median()) {
		t.Error("nothing has a median")
	}
}

func TestVerdict(t *testing.T) {
	of := func(v ...float64) *series { return &series{Values: v} }
	goals := atMost(bound{2, 6}, bound{0.5, 1.5})
	for _, c := range []struct {
		name string
		row  row
		want string
	}{
		{"both", row{Unit: "ms", Template: of(0.4, 0.5, 1.5), Goals: goals}, "must 2 / 6 ms reached, aim 0.5 / 1.5 ms reached"},
		{"the slow end misses the aim", row{Unit: "ms", Template: of(0.4, 0.5, 1.6), Goals: goals}, "must 2 / 6 ms reached, aim 0.5 / 1.5 ms not reached"},
		{"the slow end misses the must", row{Unit: "ms", Template: of(0.4, 0.5, 6.1), Goals: goals}, "**must 2 / 6 ms not reached**, aim 0.5 / 1.5 ms not reached"},
		{"the median misses the must", row{Unit: "ms", Template: of(2.1, 2.1), Goals: goals}, "**must 2 / 6 ms not reached**, aim 0.5 / 1.5 ms not reached"},
		{"more is better", row{Unit: "/s", More: true, Template: of(300, 100, 400), Goals: atMost(bound{P50: 300}, bound{P50: 2500})},
			"must 300/s reached, aim 2500/s not reached"},
		{"more is better, slow end", row{Unit: "/s", More: true, Template: of(300, 100, 400), Goals: atMost(bound{300, 150}, bound{P50: 2500})},
			"**must 300 / 150/s not reached**, aim 2500/s not reached"},
		{"beside runc", row{Unit: "ms", CRIU: of(10), Runc: of(65), Goals: []goal{timesRunc(6, 15)}},
			"criu 6.50× runc: must 6× reached, aim 15× not reached"},
		{"slower than runc", row{Unit: "ms", CRIU: of(10), Runc: of(5), Goals: []goal{timesRunc(6, 15)}},
			"criu 0.50× runc: **must 6× not reached**, aim 15× not reached"},
		{"two goals", row{Unit: "ms", Template: of(1), CRIU: of(10), Runc: of(200), Goals: append(goals, timesRunc(6, 15))},
			"must 2 / 6 ms reached, aim 0.5 / 1.5 ms not reached; criu 20.0× runc: must 6× reached, aim 15× reached"},
		{"no figures", row{Unit: "ms", Template: &series{}, Goals: goals}, "**must 2 / 6 ms not reached**, aim 0.5 / 1.5 ms not reached"},
		{"not measured", row{Unit: "ms", CRIU: of(1), Goals: append(goals, timesRunc(6, 15))}, "template not measured; criu not measured"},
		{"no goal", row{Unit: "ms", Template: of(1)}, ""},
	} {
		if got := c.row.verdict(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	of := func(v ...float64) *series { return &series{Values: v} }
	st := newSteps("clone")
	st.add(1, []snapshot.Phase{{Name: "cgroup", MS: 0.1}, {Name: "fork", MS: 0.3}, {Name: "restore", MS: 0.5}})
	r := result{Facts: []string{"a machine"}, Notes: []string{"a note"}, Failed: []string{"burst: no room"}, Steps: []*steps{st}, Rows: []row{
		{What: "clone", Unit: "ms", Template: of(1, 2), CRIU: of(25.25, 30), Runc: of(130, 1234.5), Goals: atMost(bound{P50: 2}, bound{P50: 1})},
		{What: "capture", Unit: "ms", CRIU: of(1), Runc: of(2, 3)},
	}}
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{
		"* a machine\n",
		"| clone | ms | 2 | 1.00 | 2.00 | 25.2 | 30.0 | 130 | 1234 | must 2 ms reached, aim 1 ms reached |\n",
		"| capture | ms | 1, 2 | | | 1.00 | 1.00 | 2.00 | 3.00 |  |\n",
		"* clone, median µs of each step: cgroup 100 · fork 300 · (between the steps) 600\n",
		"* a note\n", "* **failed:** burst: no room\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	head := ""
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "|") {
			if head == "" {
				head = line
			}
			if strings.Count(line, "|") != strings.Count(head, "|") {
				t.Errorf("%q has not the columns of %q", line, head)
			}
		}
	}
}

func TestSteps(t *testing.T) {
	st := newSteps("clone")
	st.add(10, []snapshot.Phase{{Name: "template", MS: 8}, {Name: "netns", MS: 1}})
	st.add(2, []snapshot.Phase{{Name: "netns", MS: 0.5}, {Name: "netns", MS: 0.5}, {Name: "new", MS: 0.25}})
	for name, want := range map[string][]float64{"template": {8, 0}, "netns": {1, 1}, "new": {0, 0.25}, remainder: {1, 0.75}} {
		if got := st.MS[name].Values; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if want := []string{"template", "netns", "new"}; !slices.Equal(st.Names, want) {
		t.Errorf("order %v, want %v", st.Names, want)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0.123: "0.12", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 1234.4: "1234", -20.8: "-20.8", math.NaN(): "?"} {
		if got := number(v); got != want {
			t.Errorf("%g is written %s, want %s", v, got, want)
		}
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// writeJSON prints v as indented JSON. A nil slice is an empty list.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table is text in columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, heads ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	if len(heads) > 0 {
		t.row(heads...)
	}
	return t
}

func (t table) row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			c = "-"
		}
		cells[i] = plain(c)
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t table) flush() error { return t.w.Flush() }

// plain replaces characters that would break a line, a column or a terminal: names in a snapshot are not ours.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// containerView is a container as JSON shows it: the record, with what scripts ask for most always there, and flat.
type containerView struct {
	*snapshot.Container
	Pid     int     `json:"pid"`
	Address string  `json:"address"`
	Engine  string  `json:"engine"`
	CloneMS float64 `json:"clone_ms"`
}

func viewOf(c *snapshot.Container) containerView {
	return containerView{Container: c, Pid: c.Pid, Address: address(c.Network.Address), Engine: c.Engine, CloneMS: c.CloneMS}
}

func viewsOf(cs []*snapshot.Container) []containerView {
	views := make([]containerView, len(cs))
	for i, c := range cs {
		views[i] = viewOf(c)
	}
	return views
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// shortID is as much of an id as people need.
func shortID(id string) string {
	return snapshot.ShortID(id)
}

// bytesText writes a number of bytes in binary units.
func bytesText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, "KiB"
	for _, next := range []string{"MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, next
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

func msText(ms float64) string { return fmt.Sprintf("%.1f ms", ms) }

// ageText says how long ago something was, in its largest unit.
func ageText(now, then time.Time) string {
	d := now.Sub(then)
	switch {
	case then.IsZero():
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

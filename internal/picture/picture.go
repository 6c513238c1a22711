// Package picture takes a normalised picture of a container as /proc and the kernel's questions show it: what two clones of
// one snapshot must have in common, whichever engine made them, and what a clone must have in common with the original.
//
// What has to differ is left out or given a neutral name: process ids of the host, inode and device numbers, the
// container's addresses, its id, times.
package picture

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Picture is what was seen of a container: facts, each under a name of its own, in a fixed order.
type Picture struct {
	facts []fact
	index map[string]int
}

type fact struct{ name, value string }

// add notes a fact. Facts of one name are numbered, so that none hides another.
func (p *Picture) add(name, format string, args ...any) {
	if p.index == nil {
		p.index = make(map[string]int)
	}
	unique := name
	for n := 2; ; n++ {
		if _, taken := p.index[unique]; !taken {
			break
		}
		unique = fmt.Sprintf("%s#%d", name, n)
	}
	p.index[unique] = len(p.facts)
	p.facts = append(p.facts, fact{unique, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\\n")})
}

// Text returns the picture as lines, one fact each: its name, a space, its value.
func (p *Picture) Text() string {
	var b strings.Builder
	for _, f := range p.facts {
		b.WriteString(f.name + " " + f.value + "\n")
	}
	return b.String()
}

// value returns the value of a fact and whether the picture has it.
func (p *Picture) value(name string) (string, bool) {
	i, ok := p.index[name]
	if !ok {
		return "", false
	}
	return p.facts[i].value, true
}

// Change is one fact that two pictures do not share. Sign is '-' where only the first has it, '+' where only the second has
// it, and '~' where both have it with other values.
type Change struct {
	Sign     byte
	Name     string
	From, To string
}

// String returns the change as a line: "- NAME VALUE", "+ NAME VALUE" or "~ NAME VALUE → VALUE".
func (c Change) String() string {
	switch c.Sign {
	case '-':
		return "- " + c.Name + " " + c.From
	case '+':
		return "+ " + c.Name + " " + c.To
	default:
		return "~ " + c.Name + " " + c.From + " → " + c.To
	}
}

// Reversed returns what the comparison would say had the pictures changed places.
func (c Change) Reversed() Change {
	c.From, c.To = c.To, c.From
	switch c.Sign {
	case '-':
		c.Sign = '+'
	case '+':
		c.Sign = '-'
	}
	return c
}

// Changes returns the facts that are not in both pictures. Remaining times that are close count as equal.
func Changes(a, b *Picture) []Change {
	var out []Change
	for _, f := range a.facts {
		other, ok := b.value(f.name)
		switch {
		case !ok:
			out = append(out, Change{'-', f.name, f.value, ""})
		case !alike(f.value, other):
			out = append(out, Change{'~', f.name, f.value, other})
		}
	}
	for _, f := range b.facts {
		if _, ok := a.value(f.name); !ok {
			out = append(out, Change{'+', f.name, "", f.value})
		}
	}
	return out
}

// Diff returns [Changes] as lines.
func Diff(a, b *Picture) []string {
	var out []string
	for _, c := range Changes(a, b) {
		out = append(out, c.String())
	}
	return out
}

// moving is a number of seconds that goes on while nobody looks: "≈120s".
var moving = regexp.MustCompile(`≈(-?\d+)s`)

// slack is how many seconds two pictures of one thing may lie apart.
const slack = 60

// alike says whether two values are equal but for what moves, which must be close.
func alike(a, b string) bool {
	if a == b {
		return true
	}
	if moving.ReplaceAllString(a, "") != moving.ReplaceAllString(b, "") {
		return false
	}
	x, y := moving.FindAllStringSubmatch(a, -1), moving.FindAllStringSubmatch(b, -1)
	return slices.EqualFunc(x, y, func(x, y []string) bool {
		n, err1 := strconv.ParseInt(x[1], 10, 64)
		m, err2 := strconv.ParseInt(y[1], 10, 64)
		return err1 == nil && err2 == nil && max(n-m, m-n) <= slack
	})
}

package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// choice is the value of a flag that takes one of a few words.
type choice struct {
	value string
	among []string
}

func newChoice(value string, among ...string) choice { return choice{value, among} }

// Set implements [cli.Generic].
func (c *choice) Set(s string) error {
	if !slices.Contains(c.among, s) {
		return fmt.Errorf("%q is none of %s", s, c.list())
	}
	c.value = s
	return nil
}

func (c *choice) String() string { return c.value }

func (c *choice) list() string { return strings.Join(c.among, ", ") }

// size is the value of a flag that takes a number of bytes: 512m, 1.5g, 4096. Units are powers of 1024.
type size struct {
	bytes int64
	least string // as it would be given
}

// Set implements [cli.Generic].
func (s *size) Set(text string) error {
	n, err := parseSize(text)
	if err != nil {
		return err
	}
	if least, err := parseSize(s.least); err != nil || n < least {
		return fmt.Errorf("%s is below %s", text, s.least)
	}
	s.bytes = n
	return nil
}

func (s *size) String() string {
	if s.bytes == 0 {
		return ""
	}
	return strconv.FormatInt(s.bytes, 10)
}

func parseSize(text string) (int64, error) {
	number := strings.ToLower(text)
	number = strings.TrimSuffix(strings.TrimSuffix(number, "b"), "i")
	unit := 1.0
	if number != "" {
		if i := strings.IndexByte("kmgt", number[len(number)-1]); i >= 0 {
			unit, number = math.Pow(1024, float64(i+1)), number[:len(number)-1]
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.ContainsAny(strings.TrimPrefix(number, "-"), "xpin_e+-") || math.Abs(n*unit) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size like 512m or 1.5g", text)
	}
	return int64(n * unit), nil
}

// number is the value of a flag that takes a whole number.
type number struct{ value, least int }

// Set implements [cli.Generic].
func (n *number) Set(text string) error {
	v, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a whole number", text)
	case v < n.least:
		return fmt.Errorf("%d is below %d", v, n.least)
	}
	n.value = v
	return nil
}

func (n *number) String() string {
	if n.value < n.least {
		return "" // nothing was given
	}
	return strconv.Itoa(n.value)
}

// processors is the value of a flag that takes a number of processors.
type processors float64

// Set implements [cli.Generic].
func (p *processors) Set(text string) error {
	const least = 0.01
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
		return fmt.Errorf("%q is not a number of processors", text)
	case v < least:
		return fmt.Errorf("%s is below %v", text, least)
	}
	*p = processors(v)
	return nil
}

func (p *processors) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*p), 'g', -1, 64)
}

// output is how a command prints its data.
type output struct {
	format choice
	json   bool
}

func (o *output) flags() []cli.Flag {
	o.format = newChoice("table", "table", "json")
	return []cli.Flag{
		&cli.GenericFlag{Name: "output", Aliases: []string{"o"}, Value: &o.format, Usage: "print as `FORMAT`: " + o.format.list()},
		&cli.BoolFlag{Name: "json", Destination: &o.json, Usage: "print as JSON, errors too; the same as -o json"},
	}
}

func (o *output) asJSON() bool { return o.json || o.format.value == "json" }

// quiet is the flag that leaves nothing but ids.
func quiet(q *bool) cli.Flag {
	return &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Destination: q, Usage: "print ids only"}
}

// limits are the flags for resource limits. One that is given is above zero: what is not to be limited is left out.
type limits struct {
	memory size
	cpus   processors
	pids   number
}

// flags returns the flags; standard says what holds where one is not given.
func (l *limits) flags(standard string) []cli.Flag {
	l.memory.least, l.pids.least = "6m", 1
	return []cli.Flag{
		&cli.GenericFlag{Name: "memory", Aliases: []string{"m"}, Value: &l.memory, Usage: "limit memory to `SIZE`: 512m, 2g", DefaultText: standard},
		&cli.GenericFlag{Name: "cpus", Value: &l.cpus, Usage: "limit processor time to `N` processors: 0.5, 2", DefaultText: standard},
		&cli.GenericFlag{Name: "pids-limit", Value: &l.pids, Usage: "limit processes and threads to `N`", DefaultText: standard},
	}
}

func (l *limits) value() snapshot.Limits {
	return snapshot.Limits{MemoryBytes: l.memory.bytes, CPUs: float64(l.cpus), Pids: int64(l.pids.value)}
}

// environment completes entries that are only a name with the value of this process, as docker run does. What is not
// set here is left out.
func environment(entries []string) ([]string, error) {
	var env []string
	for _, e := range entries {
		name, _, given := strings.Cut(e, "=")
		if name == "" {
			return nil, usagef("--env: %q has no name", e).hinted("write NAME=VALUE, or NAME to pass on your own")
		}
		if given {
			env = append(env, e)
		} else if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env, nil
}

// volumes makes the sources absolute that are relative to the working directory.
func volumes(entries []string) ([]string, error) {
	var vols []string
	for _, v := range entries {
		source, target, _ := strings.Cut(v, ":")
		target, option, _ := strings.Cut(target, ":")
		if source == "" || !filepath.IsAbs(target) || option != "" && option != "ro" && option != "rw" {
			return nil, usagef("--volume: %q is not SOURCE:TARGET[:ro]", v).hinted("TARGET is an absolute path in the container")
		}
		source, err := filepath.Abs(source)
		if err != nil {
			return nil, err
		}
		vol := source + ":" + target
		if option == "ro" {
			vol += ":ro"
		}
		vols = append(vols, vol)
	}
	return vols, nil
}

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
type size int64

// Set implements [cli.Generic].
func (s *size) Set(text string) error {
	n, err := parseSize(text)
	if err != nil {
		return err
	}
	*s = size(n)
	return nil
}

func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
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
	if err != nil || strings.ContainsAny(number, "xpin_e+-") || n*unit >= math.MaxInt64 || n*unit < 1 {
		return 0, fmt.Errorf("%q is not a size like 512m or 1.5g", text)
	}
	return int64(n * unit), nil
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

// limits are the flags for resource limits.
type limits struct {
	memory size
	cpus   float64
	pids   int
}

// flags returns the flags; standard says what holds where one is not given.
func (l *limits) flags(standard string) []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "memory", Aliases: []string{"m"}, Value: &l.memory, Usage: "limit memory to `SIZE`: 512m, 2g", DefaultText: standard},
		&cli.Float64Flag{Name: "cpus", Destination: &l.cpus, Usage: "limit processor time to `N` processors: 0.5, 2", DefaultText: standard},
		&cli.IntFlag{Name: "pids-limit", Destination: &l.pids, Usage: "limit processes and threads to `N`", DefaultText: standard},
	}
}

func (l *limits) value() (snapshot.Limits, error) {
	if l.cpus < 0 || math.IsNaN(l.cpus) || math.IsInf(l.cpus, 0) {
		return snapshot.Limits{}, usagef("--cpus: %v is not a number of processors", l.cpus)
	}
	if l.pids < 0 {
		return snapshot.Limits{}, usagef("--pids-limit: %d is below 1", l.pids)
	}
	return snapshot.Limits{MemoryBytes: int64(l.memory), CPUs: l.cpus, Pids: int64(l.pids)}, nil
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

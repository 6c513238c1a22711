// Command bench measures both engines of snapd-ctr side by side with runc: the same programs on the same root file
// systems, in turns, in one run. It prints Markdown and, with -json, writes all figures to a file.
//
// Times of a machine that others share mean little by themselves: read the ratios.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

type options struct {
	clones  int // of each of the single clones
	rounds  int // of what takes longer
	bursts  int
	burst   int           // clones in the burst against runc
	many    int           // clones in the large burst
	idle    int           // clones whose memory is measured
	seconds int           // of making and destroying
	sizes   [2]int        // of two programs, in MB beyond what Python takes
	settle  time.Duration // for the memory to come to rest
	only    []string
	place
}

// place says where things are.
type place struct {
	dir, root, run, bridge, subnet string
	cli, shim, criu                string
	busybox, python, full          string
}

// whole is what `make bench` measures; quick is to see in a few minutes that everything works.
func whole() options {
	return options{clones: 200, rounds: 30, bursts: 30, burst: 64, many: 1000, idle: 200, seconds: 30, sizes: [2]int{73, 930}, settle: 8 * time.Second}
}

func quick() options {
	return options{clones: 20, rounds: 5, bursts: 2, burst: 16, many: 100, idle: 50, seconds: 5, sizes: [2]int{73, 930}, settle: 8 * time.Second}
}

func main() {
	o, asJSON, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		err = run(ctx, o, asJSON)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, asJSON string, err error) {
	o = whole()
	var bin, only string
	var short bool
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&short, "quick", false, "few rounds and small bursts: to see that everything works")
	f.StringVar(&only, "only", "", "measure these `parts` alone, with commas between: "+strings.Join(partNames(), ", "))
	f.IntVar(&o.clones, "n", o.clones, "how often a single clone is measured")
	f.IntVar(&o.rounds, "rounds", o.rounds, "how often what takes longer is measured")
	f.IntVar(&o.bursts, "bursts", o.bursts, "how often the burst beside runc is measured, which takes 20 seconds for each; of the large one a tenth")
	f.IntVar(&o.burst, "burst", o.burst, "how many clones in the burst beside runc")
	f.IntVar(&o.many, "many", o.many, "how many clones in the large burst")
	f.IntVar(&o.idle, "idle", o.idle, "how many clones the memory of one is measured by")
	f.IntVar(&o.seconds, "seconds", o.seconds, "how long clones are made and destroyed")
	f.StringVar(&bin, "bin", "bin", "directory of snapd-ctr, snapd-ctr-shim and snapd-ctr-stub")
	f.StringVar(&o.criu, "criu", "", "the criu binary")
	f.StringVar(&o.python, "python", "", "root file system with Python, numpy and the demo's server.py in /srv")
	f.StringVar(&o.busybox, "busybox", "", "root file system with busybox")
	f.StringVar(&o.full, "full", "", "root file system with Node and the demo's server.mjs in /srv")
	f.StringVar(&asJSON, "json", "", "file for the figures as JSON")
	if err := f.Parse(args); err != nil {
		return o, "", err
	}
	if short {
		given := o
		o = quick()
		o.place = given.place
		f.Visit(func(fl *flag.Flag) { // what was given beside -quick holds
			for name, v := range map[string][2]*int{"n": {&o.clones, &given.clones}, "rounds": {&o.rounds, &given.rounds},
				"bursts": {&o.bursts, &given.bursts}, "burst": {&o.burst, &given.burst}, "many": {&o.many, &given.many},
				"idle": {&o.idle, &given.idle}, "seconds": {&o.seconds, &given.seconds}} {
				if fl.Name == name {
					*v[0] = *v[1]
				}
			}
		})
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return o, "", err
	}
	o.cli, o.shim = filepath.Join(bin, "snapd-ctr"), filepath.Join(bin, "snapd-ctr-shim")
	o.bridge, o.subnet = "snapdbench0", "10.88.192.0/18"
	return o, asJSON, checkParts(o.only)
}

func run(ctx context.Context, o options, asJSON string) (err error) {
	if os.Geteuid() != 0 || o.criu == "" || o.python == "" || o.busybox == "" || o.full == "" {
		return errors.New("run it through `make bench`, as root")
	}
	if o.dir, err = os.MkdirTemp("", "snapd-ctr-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	o.root, o.place.run = filepath.Join(o.dir, "root"), filepath.Join(o.dir, "run")
	b, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if b.Facts, err = facts(ctx, o.criu); err != nil {
		return err
	}
	b.measure(ctx)
	b.Time = time.Now().UTC()
	b.print(os.Stdout)
	if asJSON != "" {
		out, err := json.MarshalIndent(b.result, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(asJSON, append(out, '\n'), 0o644); err != nil {
			return err
		}
	}
	if len(b.Failed) > 0 {
		return fmt.Errorf("%d parts failed", len(b.Failed))
	}
	return ctx.Err()
}

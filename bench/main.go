// Command bench measures snapd-ctr side by side with runc: the same programs on the same root file system, one after the
// other in turns, in one run. It prints Markdown and, with -json, writes the figures to a file.
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
	"time"

	"github.com/snapd-ctr/snapd-ctr/bench/baseline"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type options struct {
	rounds    int
	burst     int
	bursts    int
	onlyBurst bool
	bin       string
	criu      string
	python    string
	busybox   string
	json      string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "n", 30, "how often each thing is measured")
	flag.IntVar(&o.burst, "burst", 64, "how many clones in the burst")
	flag.IntVar(&o.bursts, "bursts", 30, "how often the burst is measured; runc takes 20 seconds for each")
	flag.BoolVar(&o.onlyBurst, "only-burst", false, "measure the burst alone")
	flag.StringVar(&o.bin, "bin", "bin", "directory of snapd-ctr and snapd-ctr-shim")
	flag.StringVar(&o.criu, "criu", "", "the criu binary")
	flag.StringVar(&o.python, "python", "", "root file system with Python, numpy and the demo's server.py in /srv")
	flag.StringVar(&o.busybox, "busybox", "", "root file system with busybox")
	flag.StringVar(&o.json, "json", "", "file for the figures as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 || o.criu == "" || o.python == "" || o.busybox == "" {
		return errors.New("run it through `make bench`, as root")
	}
	dir, err := os.MkdirTemp("", "snapd-ctr-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	svc, err := api.OpenLocal(ctx, api.Config{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), CRIU: o.criu,
		Shim: filepath.Join(bin, "snapd-ctr-shim"), Bridge: "snapdbench0", Subnet: "10.88.192.0/20"})
	if err != nil {
		return err
	}
	m := &bench{options: o, dir: dir, cli: filepath.Join(bin, "snapd-ctr"), svc: svc, runc: baseline.Runc{Dir: dir, CRIU: o.criu}}
	defer func() { err = errors.Join(err, m.cleanUp(), svc.Close()) }()
	if m.facts, err = facts(ctx, o.criu); err != nil {
		return err
	}
	parts := []func(context.Context) error{m.shell, m.python3, m.burst64}
	if o.onlyBurst {
		parts = []func(context.Context) error{m.prepare, m.burst64}
	}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	m.print(os.Stdout)
	if o.json != "" {
		out, err := json.MarshalIndent(map[string]any{"facts": m.facts, "figures": m.figures, "time": time.Now().UTC()}, "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(o.json, append(out, '\n'), 0o644)
	}
	return nil
}

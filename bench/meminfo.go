package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// memory is what the machine and one shim use, in bytes.
type memory struct {
	available   int64
	slab        int64
	stacks      int64
	percpu      int64
	shim        int64 // private to the shim
	descriptors int64 // of the shim; a count
	restless    bool  // others used memory all the while
}

// footprint is what one of many clones costs, in bytes.
type footprint struct {
	memory          // what the machine and the shim have more of; available: less of
	wrote     int64 // private to the clone, and written
	ownTables int64 // page tables of the clone itself
}

// beyond is what a clone costs beyond the pages that it wrote: by how much less memory is available, but at least what is
// known by name. The first also knows what has no name, and the second does not suffer from what others free meanwhile.
func (f footprint) beyond() int64 { return max(f.available-f.wrote, f.named()) }

func (f footprint) named() int64 { return f.ownTables + f.slab + f.stacks + f.percpu + f.shim }

func (f footprint) String() string {
	kb := func(n int64) string { return number(float64(n) / 1e3) }
	caveat := ""
	if f.restless {
		caveat = " (**others used memory meanwhile: worth little**)"
	}
	return fmt.Sprintf("%s kB less available, %s kB of it written by the clone; page tables %s, slab %s, kernel stacks %s, per-processor %s, the shim %s: %s kB; %d descriptors of the shim%s",
		kb(f.available), kb(f.wrote), kb(f.ownTables), kb(f.slab), kb(f.stacks), kb(f.percpu), kb(f.shim), kb(f.named()), f.descriptors, caveat)
}

// cost shares out what n clones use that wrote so much and have such page tables.
func cost(before, after memory, wrote, tables int64, n int) footprint {
	each := func(more int64) int64 { return more / int64(n) }
	grown := func(before, after int64) int64 { return each(max(0, after-before)) } // what shrank did so elsewhere
	return footprint{wrote: each(wrote), ownTables: each(tables), memory: memory{
		available: each(before.available - after.available), slab: grown(before.slab, after.slab), stacks: grown(before.stacks, after.stacks),
		percpu: grown(before.percpu, after.percpu), shim: grown(before.shim, after.shim), descriptors: grown(before.descriptors, after.descriptors),
		restless: before.restless || after.restless}}
}

const (
	settleEvery = 250 * time.Millisecond
	settleCalm  = 1 << 20 // less than this between two looks is no change
)

// settled looks at the memory until it changes no more, or for as long as limit: what was freed a moment ago, the kernel
// takes back later.
func settled(ctx context.Context, shim int, limit time.Duration) (m memory, err error) {
	debug.FreeOSMemory() // our own garbage is nobody's cost
	calm := 0
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; {
		last := m.available
		if m, err = look(shim); err != nil {
			return m, err
		}
		if calm++; max(last-m.available, m.available-last) > settleCalm {
			calm = 0
		}
		if calm == 4 {
			return m, nil
		}
		select {
		case <-time.After(settleEvery):
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return m, context.Cause(ctx)
	}
	m.restless = true
	return m, nil
}

func look(shim int) (m memory, err error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	info := kilobytes(string(b))
	m = memory{available: info["MemAvailable"], slab: info["Slab"], stacks: info["KernelStack"],
		percpu: info["Percpu"], descriptors: int64(entries(fmt.Sprintf("/proc/%d/fd", shim)))}
	if m.shim, err = proc.PrivateBytes(shim); err != nil {
		return m, fmt.Errorf("memory of the shim: %w", err)
	}
	return m, nil
}

// kilobytes reads lines such as "Private_Dirty:   12 kB" and returns bytes. Other lines are left out.
func kilobytes(s string) map[string]int64 {
	out := make(map[string]int64)
	for line := range strings.Lines(s) {
		name, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if len(f) != 2 || f[1] != "kB" {
			continue
		}
		if n, err := strconv.ParseInt(f[0], 10, 54); err == nil {
			out[name] = n << 10
		}
	}
	return out
}

// written returns how much memory a process has that it alone maps and that was written, and how much its page tables take.
func written(pid int) (pages, tables int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return kilobytes(string(b))["Private_Dirty"], kilobytes(string(status))["VmPTE"], err
}

// numberIn reads a file with one number.
func numberIn(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// openFiles returns how many descriptors a process may have.
func openFiles(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/limits", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				return strconv.ParseInt(f[0], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("%s does not name the limit of open files", path)
}

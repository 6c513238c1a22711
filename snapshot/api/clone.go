package api

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"sync"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// maxClones is how many clones one request may ask for.
const maxClones = 10_000

// Clone makes containers of a snapshot.
func (l *Local) Clone(ctx context.Context, r CloneRequest) ([]*snapshot.Container, error) {
	if r.Count < 1 {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "clone", On: r.Snapshot,
			Err: fmt.Errorf("%d clones make no sense", r.Count), Hint: "-n takes a number from 1 up"}
	}
	if err := checkHostname(r.Hostname); err != nil {
		return nil, err
	}
	if r.Count > maxClones {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "clone", On: r.Snapshot,
			Err: fmt.Errorf("%d clones at once are too many", r.Count), Hint: fmt.Sprintf("-n takes a number up to %d; give the command again for more", maxClones)}
	}
	snap, err := l.store.Get(r.Snapshot)
	if err != nil {
		return nil, err
	}
	if r.Engine == "" {
		r.Engine = snapshot.EngineAuto
	}
	if err := checkSnapshot(snap, r.Engine, goruntime.GOARCH); err != nil {
		return nil, err
	}
	engine, why := chooseEngine(snap, r.Engine)
	limits := snap.Config.Limits
	if r.Limits != nil {
		limits = *r.Limits
	}
	if limits.MemoryBytes > 0 && limits.MemoryBytes < snap.Config.Memory.Bytes {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "clone", On: r.Snapshot,
			Err:  fmt.Errorf("a memory limit of %d bytes is less than the %d that its processes have from the start", limits.MemoryBytes, snap.Config.Memory.Bytes),
			Hint: "give -m at least that, and room to grow"}
	}
	threads := int64(0)
	for _, p := range snap.Config.Processes {
		threads += int64(p.Threads)
	}
	if limits.Pids > 0 && limits.Pids < threads {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "clone", On: r.Snapshot,
			Err:  fmt.Errorf("a limit of %d processes and threads is less than the %d that it has from the start", limits.Pids, threads),
			Hint: "give --pids-limit at least that, and room for what exec starts"}
	}
	if err := l.tool.Warm(ctx, l.cfg.Run); err != nil {
		return nil, err
	}
	unpacked, err := l.store.Unpack(ctx, snap.ID)
	if err != nil {
		return nil, err
	}
	client, err := l.spawn(ctx, groupOf(snap.ID))
	if err != nil {
		return nil, err
	}
	records := l.cloneRecords(snap, r, limits, engine, why)
	for i := range records {
		// So the shim need not write them again: by these what a killed one leaves is found.
		records[i].ShimAddr, records[i].ShimPid = client.Socket(), client.Pid()
	}
	reserved, err := l.reserve(records)
	if err != nil {
		return nil, err
	}
	parallel := r.Parallel
	if parallel < 1 {
		parallel = 2 * goruntime.NumCPU() // a clone waits for the kernel now and then
	}
	made := make([]*snapshot.Container, len(reserved))
	errs := make([]error, len(reserved))
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, res := range reserved {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			made[i], errs[i] = l.cloneOne(ctx, client, res, shim.CloneRequest{Record: res.record, Config: snap.Config, ConfigFile: unpacked.Config,
				Lower: unpacked.Lower, Images: unpacked.Images, Contents: unpacked.Contents, Engine: engine})
		})
	}
	wg.Wait()
	made = slices.DeleteFunc(made, func(c *snapshot.Container) bool { return c == nil })
	return made, partial(errs, len(made), r.Snapshot)
}

// cloneOne makes one clone, or removes what was reserved for it.
func (l *Local) cloneOne(ctx context.Context, client *shim.Client, res *reservation, r shim.CloneRequest) (*snapshot.Container, error) {
	if len(r.Config.Spec) > 0 {
		path := filepath.Join(shim.ContainerDir(l.cfg.Root, res.record.ID), "config.json")
		if err := os.WriteFile(path, r.Config.Spec, 0o600); err != nil {
			return nil, errors.Join(err, l.drop([]*reservation{res}))
		}
	}
	c, _, err := client.Clone(ctx, res.record.ID, r)
	if err != nil {
		return nil, errors.Join(err, l.drop([]*reservation{res}))
	}
	res.keep()
	return &c, nil
}

// cloneRecords names the clones and says what they stand on.
func (l *Local) cloneRecords(snap *snapshot.Snapshot, r CloneRequest, limits snapshot.Limits, engine, why string) []snapshot.Container {
	cfg := &snap.Config
	base := snapshot.Base{Dir: cfg.Base.Dir, Layers: slices.Clone(cfg.Base.Layers)}
	for _, layer := range snap.Layers {
		if layer.Role == snapshot.RoleRootfs {
			base.Layers = append(base.Layers, layer.Digest)
		}
	}
	out := make([]snapshot.Container, 0, r.Count)
	for i := range r.Count {
		name := r.Name
		if name != "" && r.Count > 1 {
			name = fmt.Sprintf("%s-%d", r.Name, i+1)
		}
		c := l.newRecord(name)
		c.Snapshot, c.Base, c.Image, c.Args, c.Volumes = snap.ID, base, cfg.Source.Image, cfg.Args, cfg.Volumes
		c.Engine, c.EngineWhy = engine, why
		c.Cgroup = path.Join(l.cgroupParent()+sandbox.Clones, c.ID)
		c.Network.Mode = "none"
		switch {
		case cfg.NetnsKey == "":
			c.Network.Mode = "host"
		case cfg.Network.Mode != "none":
			c.Network.Mode = "bridge"
		}
		c.Limits = limits
		c.Hostname = r.Hostname
		if c.Hostname == "" {
			c.Hostname = hostnameOf(&c)
		}
		out = append(out, c)
	}
	return out
}

// partial joins the errors of several attempts into one that says how many worked.
func partial(errs []error, worked int, on string) error {
	failed := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	if len(failed) == 0 {
		return nil
	}
	first := failed[0]
	if len(errs) == 1 {
		return first
	}
	kind := snapshot.KindPartial
	if worked == 0 {
		kind = snapshot.KindOf(first)
	}
	return &snapshot.Error{Kind: kind, Op: "clone", On: on,
		Err:  fmt.Errorf("%d of %d clones failed; the first because: %w", len(failed), len(errs), first),
		Hint: snapshot.HintOf(first), Log: snapshot.LogOf(first)}
}

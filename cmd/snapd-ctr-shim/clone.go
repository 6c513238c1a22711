package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/restore"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// clone has the engine make the container, and takes it over.
func (c *container) clone(ctx context.Context, e engine, r shim.CloneRequest) ([]snapshot.Phase, error) {
	if err := c.writeSpec(r.Config.Spec); err != nil {
		return nil, err
	}
	r.Record = c.record
	got, err := e.Clone(ctx, c.record.ID, r)
	if err != nil {
		return nil, err
	}
	c.record.Engine = got.Engine
	if got.Why != "" {
		c.record.EngineWhy = got.Why
	}
	c.record.Network = got.Network
	c.memory = got.Memory
	c.undo = func(ctx context.Context) error {
		return errors.Join(c.destroy(ctx), c.closeOutput(ctx), got.Release(ctx))
	}
	c.record.CloneMS = float64(got.Running.Sub(r.Arrived).Microseconds()) / 1000
	if err := c.takeOver(got); err != nil {
		return nil, err
	}
	if c.memory != nil {
		go c.watchMemory()
	}
	return got.Phases, nil
}

// takeOver does for a restored container what start does for a new one.
func (c *container) takeOver(got *restore.Result) error {
	if err := c.adopt(got.Pid, nil); err != nil {
		return err
	}
	var err error
	if c.output, err = openOutput(c.paths.Root, c.record); err != nil {
		return err
	}
	c.output.take(got.Stdout, "stdout")
	c.output.take(got.Stderr, "stderr")
	c.output.take(got.TTY, "stdout")
	c.record.Phases = got.Phases
	return c.ran()
}

// writeSpec keeps the spec of the captured container, by which exec knows how its programs run.
func (c *container) writeSpec(b []byte) error {
	path := filepath.Join(c.dir, specFile)
	if exists(path) || len(b) == 0 {
		return nil
	}
	return os.WriteFile(path, b, 0o600)
}

// joinable sees to it that libcontainer knows the container. What libcontainer writes for a container that it starts is
// written here, on first use, for one that CRIU restored.
func (c *container) joinable() error {
	c.joining.Lock()
	defer c.joining.Unlock()
	if exists(filepath.Join(c.paths.Libcontainer(), c.record.ID, "state.json")) {
		return nil
	}
	return c.saveState()
}

func (c *container) saveState() error {
	s, err := readSpec(c.dir)
	if err != nil {
		return err
	}
	forJoining(s)
	// libcontainer starts programs from there, and a clone may have its root file system in its own mount namespace alone.
	rootfs := filepath.Join(c.dir, "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		return err
	}
	config, err := libcontainerConfig(s, c.record, rootfs, nil, c.log)
	if err != nil {
		return err
	}
	state := libcontainer.State{NamespacePaths: make(map[configs.NamespaceType]string)}
	state.ID, state.Created = c.record.ID, c.record.Created
	state.InitProcessPid, state.InitProcessStartTime = c.record.Pid, c.record.StartTime
	config.Namespaces = ownNamespaces(c.record.Pid)
	for _, n := range config.Namespaces {
		state.NamespacePaths[n.Type] = n.GetPath(c.record.Pid)
	}
	state.Config = *config
	cgroups, err := manager.New(config.Cgroups)
	if err != nil {
		return err
	}
	state.CgroupPaths = maps.Clone(cgroups.GetPaths())
	maps.DeleteFunc(state.CgroupPaths, func(_, dir string) bool { return !exists(dir) })
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.paths.Libcontainer(), c.record.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "state.json"), b, 0o600)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// forJoining takes out of a spec what only the making of a container needs and another host may not have.
func forJoining(s *specs.Spec) {
	s.Mounts, s.Hooks, s.Annotations = nil, nil, nil
	s.Linux.Namespaces, s.Linux.Devices, s.Linux.IntelRdt, s.Linux.NetDevices = nil, nil, nil, nil
	s.Linux.Resources = nil
}

// ownNamespaces are the namespaces of a process that are not ours.
func ownNamespaces(pid int) configs.Namespaces {
	var all configs.Namespaces
	for _, t := range configs.NamespaceTypes() {
		name := configs.NsName(t)
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			continue // this kernel lacks it
		}
		if ours, err := os.Readlink("/proc/self/ns/" + name); err == nil && ours != theirs {
			all.Add(t, "")
		}
	}
	return all
}

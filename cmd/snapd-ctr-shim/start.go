package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// launch is a container on its way from a directory to a running program.
type launch struct {
	*container
	bridge  sandbox.Bridge
	lower   []string
	netns   *sandbox.Netns
	spec    *specs.Spec
	process *libcontainer.Process
	made    *libcontainer.Container
}

// start makes everything that the container lives in, and runs its program. When ctx ends before it returns, all of it is
// taken back.
func (c *container) start(ctx context.Context, bridge sandbox.Bridge, lower []string) error {
	l := &launch{container: c, bridge: bridge, lower: lower}
	run := snapshot.NewExecution(snapshot.StartMachine(), l.actions())
	c.undo = run.Undo
	err := run.Do(ctx)
	if _, says := errors.AsType[*snapshot.Error](err); err == nil || says {
		return err
	}
	return &snapshot.Error{Kind: snapshot.KindFailed, Op: "start", On: l.record.Name, Err: err}
}

func (l *launch) actions() snapshot.Actions {
	return snapshot.Actions{
		snapshot.EffectSpec:        l.readSpec,
		snapshot.EffectRootfs:      l.mountRootfs,
		snapshot.EffectUnmount:     l.unmountRootfs,
		snapshot.EffectCgroup:      l.makeCgroup,
		snapshot.EffectRmCgroup:    l.removeCgroup,
		snapshot.EffectNetns:       l.makeNetns,
		snapshot.EffectRmNetns:     l.closeNetns,
		snapshot.EffectNetwork:     l.attach,
		snapshot.EffectDetach:      l.detach,
		snapshot.EffectFiles:       l.bindFiles,
		snapshot.EffectOutput:      l.openOutput,
		snapshot.EffectCloseOutput: l.closeOutput,
		snapshot.EffectCreate:      l.create,
		snapshot.EffectKill:        l.destroy,
		snapshot.EffectRecord:      func(context.Context) error { return l.ran() },
		snapshot.EffectRun:         l.exec,
	}
}

func (l *launch) readSpec(context.Context) (err error) {
	l.spec, err = readSpec(l.dir)
	return err
}

func (l *launch) rootfs() string { return filepath.Join(l.dir, "rootfs") }

func (l *launch) mountRootfs(context.Context) error {
	return sandbox.MountOverlay(l.rootfs(), l.lower, filepath.Join(l.dir, "upper"), filepath.Join(l.dir, "work"))
}

func (l *launch) unmountRootfs(context.Context) error { return sandbox.Unmount(l.rootfs()) }

func (l *launch) makeCgroup(context.Context) error {
	_, err := sandbox.NewCgroup(l.record.Cgroup, l.record.Limits)
	return err
}

func (l *launch) removeCgroup(ctx context.Context) error {
	g := sandbox.OpenCgroup(l.record.Cgroup)
	return g.Destroy(ctx)
}

func (l *launch) makeNetns(context.Context) (err error) {
	if l.record.Network.Mode == "host" {
		return nil
	}
	l.netns, err = sandbox.NewNetns()
	return err
}

func (l *launch) closeNetns(context.Context) error {
	if l.netns == nil {
		return nil
	}
	return l.netns.Close()
}

func (l *launch) attach(context.Context) (err error) {
	if l.record.Network.Mode != "bridge" {
		return nil
	}
	l.record.Network, err = l.bridge.Attach(l.netns, l.record.ID, nil, nil)
	return err
}

func (l *launch) detach(context.Context) error {
	if l.record.Network.Mode != "bridge" {
		return nil
	}
	return l.bridge.Release(l.record.ID)
}

// bindFiles gives the container its own resolv.conf, hosts and hostname, unless its spec has something else there.
func (l *launch) bindFiles(context.Context) error {
	dir := filepath.Join(l.dir, "files")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files, err := sandbox.WriteFiles(dir, l.record.Hostname, l.record.Network)
	if err != nil {
		return err
	}
	bindMissing(l.spec, files)
	return nil
}

func (l *launch) openOutput(context.Context) (err error) {
	l.output, err = openOutput(l.paths.Root, l.record)
	return err
}

// create makes init, which waits before it becomes the program.
func (l *launch) create(context.Context) error {
	config, err := libcontainerConfig(l.spec, l.record, l.rootfs(), l.netns, l.log)
	if err != nil {
		return err
	}
	if l.process, err = newProcess(l.spec.Process); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	stdout, err := l.output.pipe("stdout")
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := l.output.pipe("stderr")
	if err != nil {
		return err
	}
	defer stderr.Close()
	l.process.Init = true
	l.process.Stdin, l.process.Stdout, l.process.Stderr = null, stdout, stderr
	if l.made, err = libcontainer.Create(l.paths.Libcontainer(), l.record.ID, config); err != nil {
		return err
	}
	if err := l.made.Start(l.process); err != nil {
		return notStarted(err, l.spec.Process.Args)
	}
	pid, err := l.process.Pid()
	if err != nil {
		return err
	}
	return l.adopt(pid, func() (int, error) { return waitProcess(l.process) })
}

// exec lets init become the program.
func (l *launch) exec(context.Context) error { return l.made.Exec() }

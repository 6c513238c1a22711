package main

import (
	"context"
	"errors"
	"fmt"
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
	netns   *sandbox.Netns
	spec    *specs.Spec
	process *libcontainer.Process
	made    *libcontainer.Container
}

// start makes everything that the container lives in, and runs its program. It can be cancelled until the program runs.
func (c *container) start(ctx context.Context, bridge sandbox.Bridge, lower []string) error {
	l := &launch{container: c, bridge: bridge}
	for _, s := range []struct {
		name     string
		do, undo func() error
	}{
		{"spec", l.readSpec, nil},
		{"rootfs", func() error { return l.mountRootfs(lower) }, l.unmountRootfs},
		{"cgroup", l.makeCgroup, l.removeCgroup},
		{"netns", l.makeNetns, l.closeNetns},
		{"network", l.attach, l.detach},
		{"files", l.bindFiles, nil},
		{"output", l.openOutput, nil},
		{"create", l.create, l.dropState},
		{"record", l.ran, nil},
		{"run", l.run, nil},
	} {
		if err := l.step(ctx, s.name, s.do, s.undo); err != nil {
			return l.failed(s.name, err)
		}
	}
	return nil
}

// failed says what could not be done. The output pipes and an init that was created belong to no step's undo, because an
// exit takes them in an order of its own.
func (l *launch) failed(step string, err error) error {
	err = errors.Join(err, l.destroyInit())
	if l.output != nil {
		l.output.drain(0)
	}
	if _, ok := errors.AsType[*snapshot.Error](err); ok {
		return err
	}
	return &snapshot.Error{Kind: snapshot.KindFailed, Op: "start", On: l.record.Name, Err: fmt.Errorf("%s: %w", step, err)}
}

func (l *launch) readSpec() (err error) {
	l.spec, err = readSpec(l.dir)
	return err
}

func (l *launch) rootfs() string { return filepath.Join(l.dir, "rootfs") }

func (l *launch) mountRootfs(lower []string) error {
	return sandbox.MountOverlay(l.rootfs(), lower, filepath.Join(l.dir, "upper"), filepath.Join(l.dir, "work"))
}

func (l *launch) unmountRootfs() error { return sandbox.Unmount(l.rootfs()) }

func (l *launch) makeCgroup() error {
	_, err := sandbox.NewCgroup(l.record.Cgroup, l.record.Limits)
	return err
}

func (c *container) removeCgroup() error {
	g := sandbox.OpenCgroup(c.record.Cgroup)
	return errors.Join(bounded(g.Kill), g.Remove())
}

func (l *launch) makeNetns() (err error) {
	if l.record.Network.Mode == "host" {
		return nil
	}
	l.netns, err = sandbox.NewNetns()
	return err
}

func (l *launch) closeNetns() error {
	if l.netns == nil {
		return nil
	}
	return l.netns.Close()
}

func (l *launch) attach() (err error) {
	if l.record.Network.Mode != "bridge" {
		return nil
	}
	l.record.Network, err = l.bridge.Attach(l.netns, l.record.ID, nil, nil)
	return err
}

func (l *launch) detach() error {
	if l.record.Network.Mode != "bridge" {
		return nil
	}
	return l.bridge.Release(l.record.ID)
}

// bindFiles gives the container its own resolv.conf, hosts and hostname, unless its spec has something else there.
func (l *launch) bindFiles() error {
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

func (l *launch) openOutput() (err error) {
	l.output, err = openOutput(l.dir)
	return err
}

// create makes init, which waits before it becomes the program.
func (l *launch) create() error {
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
		return errors.Join(notStarted(err, l.spec.Process.Args), l.dropState())
	}
	pid, err := l.process.Pid()
	if err == nil {
		err = l.adopt(pid, func() (int, error) { return waitProcess(l.process) })
	}
	if err != nil {
		err = errors.Join(err, l.process.Signal(os.Kill))
		_, _ = waitProcess(l.process)
		return errors.Join(err, l.dropState())
	}
	return nil
}

// run lets init become the program.
func (l *launch) run() error { return l.made.Exec() }

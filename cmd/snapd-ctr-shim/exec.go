package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/apparmor"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/spec"
)

// Exec runs a program in a container to its end. When ctx ends the program is killed.
func (p *parent) Exec(ctx context.Context, id string, r shim.ExecRequest, files []*os.File, started func(pid int)) (int, error) {
	c := p.find(id)
	if c == nil || !c.made.Load() {
		return -1, p.cannotExec(id)
	}
	if err := checkExec(id, r, files); err != nil {
		return -1, err
	}
	if err := c.joinable(); err != nil {
		return -1, err
	}
	loaded, err := libcontainer.Load(p.paths.Libcontainer(), id)
	if err != nil {
		return -1, p.cannotExec(id)
	}
	state, err := loaded.State()
	if err != nil {
		return -1, err
	}
	s, err := readSpec(shim.ContainerDir(p.paths.Root, id))
	if err != nil {
		return -1, err
	}
	if err := forExec(s.Process, r, fmt.Sprintf("/proc/%d/root", state.InitProcessPid)); err != nil {
		return -1, err
	}
	process, err := newProcess(s.Process)
	if err != nil {
		return -1, err
	}
	if r.TTY {
		process.ConsoleSocket = files[0]
	} else {
		process.Stdin, process.Stdout, process.Stderr = files[0], files[1], files[2]
	}
	if err := loaded.Start(process); err != nil {
		return -1, notStarted(err, r.Args)
	}
	return wait(ctx, process, started)
}

// wait reports a program that was started and waits for its end, which it brings about when ctx ends.
func wait(ctx context.Context, process *libcontainer.Process, started func(pid int)) (int, error) {
	stop := context.AfterFunc(ctx, func() { _ = process.Signal(syscall.SIGKILL) })
	defer stop()
	if pid, err := process.Pid(); err == nil {
		started(pid)
	}
	return waitProcess(process)
}

// waitProcess reaps a process that libcontainer started.
func waitProcess(process *libcontainer.Process) (int, error) {
	state, err := process.Wait()
	if state == nil {
		return -1, err
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return -1, errors.New("the process has no wait status")
	}
	return sys.ExitStatus(status), nil
}

func checkExec(id string, r shim.ExecRequest, files []*os.File) error {
	invalid := &snapshot.Error{Kind: snapshot.KindInvalid, Op: "exec", On: snapshot.ShortID(id)}
	want := 3
	if r.TTY {
		want = 1
	}
	switch {
	case len(r.Args) == 0:
		invalid.Err = errors.New("no program given")
	case len(files) != want:
		invalid.Err = fmt.Errorf("%d descriptors came with the request, not %d", len(files), want)
	default:
		return nil
	}
	return invalid
}

// forExec makes the process of a container's spec the one that was asked for.
func forExec(p *specs.Process, r shim.ExecRequest, root string) error {
	p.Args, p.Terminal = r.Args, r.TTY
	if !apparmor.IsEnabled() {
		p.ApparmorProfile = "" // a clone's spec comes from another host
	}
	if r.Workdir != "" {
		p.Cwd = r.Workdir
	}
	if r.User != "" {
		user, err := spec.ParseUser(root, r.User)
		if err != nil {
			return err
		}
		if user.UID != p.User.UID {
			// libcontainer finds the other user's home.
			p.Env = slices.DeleteFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
			p.Capabilities = capabilitiesFor(user.UID, p.Capabilities)
		}
		p.User = user
	}
	if r.TTY && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	p.Env = append(p.Env, r.Env...) // of two of the same name the later one counts
	return nil
}

// capabilitiesFor gives root what the container may have at most, and anybody else nothing but that bound.
func capabilitiesFor(uid uint32, of *specs.LinuxCapabilities) *specs.LinuxCapabilities {
	if of == nil {
		return nil
	}
	c := &specs.LinuxCapabilities{Bounding: of.Bounding}
	if uid == 0 {
		c.Effective, c.Permitted = of.Bounding, of.Bounding
	}
	return c
}

// cannotExec says why a container that should be running is not.
func (p *parent) cannotExec(id string) error {
	record, err := shim.ReadContainer(p.paths.Root, id)
	switch {
	case err != nil:
		return err
	case record.Status == snapshot.StatusRunning && p.find(id) == nil:
		return notHere(id)
	}
	return &snapshot.Error{Kind: snapshot.KindState, Op: "exec", On: snapshot.ShortID(id), Err: errors.New("the container is not running")}
}

// notStarted wraps what libcontainer says of a program that could not be started in the container.
func notStarted(err error, args []string) error {
	return &snapshot.Error{Kind: snapshot.KindFailed, Op: "start", On: args[0], Err: err}
}

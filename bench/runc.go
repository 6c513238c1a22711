package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot/spec"
)

// runc drives the runc of the machine, with the same CRIU as ours.
type runc struct {
	dir  string
	criu string
}

func (r runc) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "runc", append([]string{"--root", filepath.Join(r.dir, "runc")}, args...)...)
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(r.criu)+":"+os.Getenv("PATH"))
	return c
}

// do runs a command of runc to its end, with its output thrown away, and returns how long that took.
func (r runc) do(ctx context.Context, args ...string) (time.Duration, error) {
	c := r.command(ctx, args...)
	errOut, err := os.CreateTemp(r.dir, "runc-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(errOut.Name())
	defer errOut.Close()
	// A file, not a pipe: the container inherits it, and a pipe would be waited for.
	c.Stdout, c.Stderr = errOut, errOut
	start := time.Now()
	err = c.Run()
	took := time.Since(start)
	if err != nil {
		b, _ := os.ReadFile(errOut.Name())
		return took, fmt.Errorf("runc %s: %w: %s", args[0], err, bytes.TrimSpace(b))
	}
	return took, nil
}

// container is a container of runc, its bundle and its checkpoint.
type container struct {
	name, bundle, images string
}

// run starts a container on a root file system that it cannot write to, and waits until it is ready.
func (r runc) run(ctx context.Context, name, rootfs string, args []string, ready func(context.Context, int) error) (container, error) {
	c := container{name: name, bundle: filepath.Join(r.dir, name), images: filepath.Join(r.dir, name+"-images")}
	if err := os.Mkdir(c.bundle, 0o700); err != nil {
		return c, err
	}
	sp, err := spec.New(spec.Options{Args: args, Hostname: name, CgroupPath: "/snapd-ctr-bench/" + name, Rootfs: rootfs})
	if err != nil {
		return c, err
	}
	sp.Root = &specs.Root{Path: rootfs, Readonly: true}
	sp.Mounts = append(sp.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	b, err := json.Marshal(sp)
	if err != nil {
		return c, err
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), b, 0o600); err != nil {
		return c, err
	}
	if _, err := r.do(ctx, "run", "--detach", "--bundle", c.bundle, name); err != nil {
		return c, err
	}
	pid, err := r.pid(ctx, name)
	if err != nil {
		return c, err
	}
	return c, ready(ctx, pid)
}

func (r runc) pid(ctx context.Context, name string) (int, error) {
	b, err := r.command(ctx, "state", name).Output()
	if err != nil {
		return 0, fmt.Errorf("runc state %s: %w", name, err)
	}
	var s struct{ Pid int }
	return s.Pid, json.Unmarshal(b, &s)
}

// checkpoint dumps a container that goes on running.
func (r runc) checkpoint(ctx context.Context, c container) (time.Duration, error) {
	if err := os.RemoveAll(c.images); err != nil {
		return 0, err
	}
	return r.do(ctx, "checkpoint", "--leave-running", "--image-path", c.images, "--work-path", c.images, c.name)
}

// restore restores the checkpoint under another name.
func (r runc) restore(ctx context.Context, c container, name string) (time.Duration, error) {
	work := filepath.Join(r.dir, name+"-work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	return r.do(ctx, "restore", "--detach", "--bundle", c.bundle, "--image-path", c.images, "--work-path", work, name)
}

func (r runc) delete(ctx context.Context, name string) error {
	_, err := r.do(ctx, "delete", "--force", name)
	return err
}

// left lists the containers of runc that still exist.
func (r runc) left(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "runc"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

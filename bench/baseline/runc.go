// Package baseline drives the runc of the machine, so that snapd-ctr can be measured beside it: the same programs on the
// same root file systems, with the same CRIU.
package baseline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot/spec"
)

// Runc is a runc with state of its own below Dir.
type Runc struct {
	Dir  string
	CRIU string // path of the criu that it uses
}

func (r Runc) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "runc", append([]string{"--root", filepath.Join(r.Dir, "runc")}, args...)...)
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(r.CRIU)+":"+os.Getenv("PATH"))
	return c
}

// do runs a command of runc to its end and returns how long that took. A container inherits the command's input and
// output: they are /dev/null, which CRIU can capture; what runc has to say goes to a log.
func (r Runc) do(ctx context.Context, args ...string) (time.Duration, error) {
	log, err := os.CreateTemp(r.Dir, "runc-*.log")
	if err != nil {
		return 0, err
	}
	log.Close()
	defer os.Remove(log.Name())
	c := r.command(ctx, append([]string{"--log", log.Name()}, args...)...)
	start := time.Now()
	err = c.Run()
	took := time.Since(start)
	if err != nil {
		b, _ := os.ReadFile(log.Name())
		return took, fmt.Errorf("runc %s: %w: %s", args[0], err, bytes.TrimSpace(b))
	}
	return took, nil
}

// Container is a container of runc, its bundle and its checkpoint.
type Container struct {
	Name, Bundle, Images string

	spec *specs.Spec
}

// Run starts a container on a root file system that it cannot write to, and waits until it is ready.
func (r Runc) Run(ctx context.Context, name, rootfs string, args []string, ready func(context.Context, int) error) (Container, error) {
	c := Container{Name: name, Bundle: filepath.Join(r.Dir, name), Images: filepath.Join(r.Dir, name+"-images")}
	var err error
	if c.spec, err = spec.New(spec.Options{Args: args, Hostname: name, Rootfs: rootfs}); err != nil {
		return c, err
	}
	c.spec.Root = &specs.Root{Path: rootfs, Readonly: true}
	c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	if err := c.writeBundle(c.Bundle, name); err != nil {
		return c, err
	}
	if _, err := r.do(ctx, "run", "--detach", "--bundle", c.Bundle, name); err != nil {
		return c, err
	}
	pid, err := r.pid(ctx, name)
	if err != nil {
		return c, err
	}
	return c, ready(ctx, pid)
}

// writeBundle makes a bundle with a cgroup of its own: runc removes it with the container, whoever else is in it.
func (c Container) writeBundle(dir, name string) error {
	sp, linux := *c.spec, *c.spec.Linux
	linux.CgroupsPath = "/snapd-ctr-bench/" + name
	sp.Linux = &linux
	b, err := json.Marshal(sp)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

func (r Runc) pid(ctx context.Context, name string) (int, error) {
	b, err := r.command(ctx, "state", name).Output()
	if err != nil {
		return 0, fmt.Errorf("runc state %s: %w", name, err)
	}
	var s struct{ Pid int }
	return s.Pid, json.Unmarshal(b, &s)
}

// Checkpoint dumps a container that goes on running.
func (r Runc) Checkpoint(ctx context.Context, c Container) (time.Duration, error) {
	if err := os.RemoveAll(c.Images); err != nil {
		return 0, err
	}
	return r.do(ctx, "checkpoint", "--leave-running", "--image-path", c.Images, "--work-path", c.Images, c.Name)
}

// Restore restores the checkpoint under another name.
func (r Runc) Restore(ctx context.Context, c Container, name string) (time.Duration, error) {
	work := filepath.Join(r.Dir, name+"-work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	bundle := filepath.Join(r.Dir, name+"-bundle")
	if err := c.writeBundle(bundle, name); err != nil {
		return 0, err
	}
	defer os.RemoveAll(bundle)
	return r.do(ctx, "restore", "--detach", "--bundle", bundle, "--image-path", c.Images, "--work-path", work, name)
}

// Delete ends a container.
func (r Runc) Delete(ctx context.Context, name string) error {
	_, err := r.do(ctx, "delete", "--force", name)
	return err
}

// DeleteAll deletes every container there is.
func (r Runc) DeleteAll(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.Dir, "runc"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, r.Delete(ctx, e.Name()))
	}
	return errors.Join(errs...)
}

// Listens returns a function that waits until a process listens on a TCP port in its own network namespace: runc's
// containers have no address that could be asked.
func Listens(port uint16) func(context.Context, int) error {
	local := fmt.Sprintf(":%04X ", port)
	return func(ctx context.Context, pid int) error {
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, local) && strings.Contains(line, " 0A ") { // LISTEN
					return nil
				}
			}
		}
		return fmt.Errorf("process %d does not listen on port %d", pid, port)
	}
}

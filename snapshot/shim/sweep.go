package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// Sweep ends what is left of a container whose shim is gone: its processes, its cgroup, its address. Its mounts and its
// network namespace go with its processes. A container that had been running is recorded as exited with a status that
// nobody saw; one that was still being made loses its record. Its files stay. A container whose shim answers is an error.
func Sweep(ctx context.Context, p Paths, id string) error {
	c, err := ReadContainer(p.Root, id)
	if err != nil {
		return err
	}
	if c.Status != snapshot.StatusExited && held(ctx, c) {
		return &snapshot.Error{Kind: snapshot.KindState, Op: "sweep", On: snapshot.ShortID(id), Err: errors.New("its shim is alive"),
			Hint: "stop the container first"}
	}
	if err := SweepHost(ctx, p, c); err != nil {
		return fmt.Errorf("sweep %s: %w", snapshot.ShortID(id), err)
	}
	switch c.Status {
	case snapshot.StatusRunning:
		c.Status, c.ExitKnown, c.Finished = snapshot.StatusExited, false, time.Now().UTC()
		return WriteContainer(p.Root, c)
	case snapshot.StatusCreating:
		return os.Remove(filepath.Join(ContainerDir(p.Root, id), recordFile))
	}
	return nil
}

// Remove deletes a container that has exited, with its files. A container that runs, or whose shim holds it, is an
// error: ask its shim instead.
func Remove(ctx context.Context, p Paths, id string) error {
	if err := Sweep(ctx, p, id); err != nil {
		return err
	}
	return RemoveFiles(p.Root, id)
}

// RemoveFiles deletes a container's directory, unless something is mounted in it, where this process can see it: that
// could be a user's volume. The log of a shim that was this container's alone goes with it, unless something failed:
// the container was never made, or its shim did not see it end.
func RemoveFiles(root, id string) error {
	c, _ := ReadContainer(root, id)
	c.ID = id
	return RemoveFilesOf(root, c)
}

// RemoveFilesOf is [RemoveFiles] for who knows more of the container than its record says.
func RemoveFilesOf(root string, c snapshot.Container) error {
	id := c.ID
	dir, err := filepath.EvalSymlinks(ContainerDir(root, id)) // mountinfo has none
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return &snapshot.Error{Kind: snapshot.KindState, Op: "remove", On: dir, Err: fmt.Errorf("%s is still mounted", mounts[0].Mountpoint)}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if c.ShimAddr != "" && c.ExitKnown && filepath.Base(c.ShimAddr) == filepath.Base(Paths{}.Socket(id)) {
		err = os.Remove(logOf(c.ShimAddr))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// held says whether the shim that made the container is alive. Another one that has taken its address since is not it.
func held(ctx context.Context, c snapshot.Container) bool {
	if c.ShimAddr == "" {
		return false
	}
	shim, err := Dial(ctx, c.ShimAddr)
	return err == nil && shim.Pid() == c.ShimPid || err != nil && snapshot.KindOf(err) != snapshot.KindUnreachable
}

// SweepHost ends what is left of a container's processes and gives back its cgroup, its address and libcontainer's state.
func SweepHost(ctx context.Context, p Paths, c snapshot.Container) error {
	var errs []error
	if c.Cgroup != "" {
		g := sandbox.OpenCgroup(c.Cgroup)
		if err := g.Kill(ctx); err != nil {
			return err // what runs still uses everything else
		}
		errs = append(errs, g.Remove())
	}
	if c.Network.Mode == "bridge" {
		subnet, err := netip.ParsePrefix(p.Subnet)
		if err == nil {
			err = sandbox.Bridge{Name: p.Bridge, Subnet: subnet, Dir: p.Leases()}.Release(c.ID)
		}
		errs = append(errs, err)
	}
	errs = append(errs, os.RemoveAll(filepath.Join(p.Libcontainer(), c.ID)))
	return errors.Join(errs...)
}

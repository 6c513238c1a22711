package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// cgroupParent is the cgroup below which the cgroups of all containers lie. Cgroups are one tree for the whole host, so
// its name tells installations apart, by their bridge and their state directory: what lies in it is ours to remove.
func (l *Local) cgroupParent() string {
	sum := sha256.Sum256([]byte(l.cfg.Root))
	return "/snapd-ctr-" + l.cfg.Bridge + "-" + hex.EncodeToString(sum[:4])
}

// sandboxGone ends whatever is left of a container's processes and gives back its cgroup and address. Mounts and
// network namespaces need no sweeping: they vanish with the processes that hold them.
func (l *Local) sandboxGone(c *snapshot.Container) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return shim.SweepHost(ctx, l.paths(), *c)
}

// sweep removes a container and everything of it.
func (l *Local) sweep(c *snapshot.Container) error {
	if err := l.sandboxGone(c); err != nil {
		return fmt.Errorf("clean up container %s: %w", c.Name, err)
	}
	return shim.RemoveFiles(l.cfg.Root, c.ID)
}

// settle records the end of a container whose process is gone. Its shim does so when it lives; when it does not,
// nobody saw the exit status.
func (l *Local) settle(c snapshot.Container) (snapshot.Container, error) {
	if client, err := shim.Dial(context.Background(), c.ShimAddr); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if status, err := client.Wait(ctx, c.ID); err == nil {
			now, err := shim.ReadContainer(l.cfg.Root, c.ID)
			if err == nil && now.Status == snapshot.StatusRunning { // the disk is full, say
				now.Status, now.ExitStatus, now.ExitKnown = snapshot.StatusExited, status, true
			}
			return now, err
		}
	}
	if shimAlive(&c) {
		return c, nil // slow, not gone: it will record the end itself
	}
	now, err := shim.ReadContainer(l.cfg.Root, c.ID)
	if err != nil || now.Status == snapshot.StatusExited {
		return now, err
	}
	if err := l.sandboxGone(&now); err != nil {
		return now, err
	}
	now.Status, now.ExitStatus, now.ExitKnown, now.Finished = snapshot.StatusExited, 255, false, time.Now().UTC()
	if err := shim.WriteContainer(l.cfg.Root, now); err != nil {
		slog.Warn("the end of a container could not be recorded", "container", c.Name, "error", err)
	}
	return now, nil
}

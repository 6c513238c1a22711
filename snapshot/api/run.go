package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/image"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/spec"
)

// Run makes a container and starts it.
func (l *Local) Run(ctx context.Context, r RunRequest) (*snapshot.Container, error) {
	if err := checkRun(r); err != nil {
		return nil, err
	}
	c := l.newRecord(r.Name)
	c.Volumes, c.Limits, c.AutoRemove = r.Volumes, r.Limits, r.Remove
	c.Hostname = r.Hostname
	if c.Hostname == "" {
		c.Hostname = snapshot.ShortID(c.ID)
	}
	c.Network.Mode = r.Network
	if c.Network.Mode == "" {
		c.Network.Mode = "bridge"
	}
	base, config, bundle, err := l.rootfs(ctx, r, &c)
	if err != nil {
		return nil, err
	}
	c.Base = base
	lower, err := l.store.LayerDirs(ctx, base)
	if err != nil {
		return nil, err
	}
	sp := bundle
	if sp == nil {
		sp, err = spec.New(spec.Options{Args: r.Args, Env: r.Env, Workdir: r.Workdir, User: r.User, Hostname: c.Hostname,
			Volumes: r.Volumes, Limits: r.Limits, CgroupPath: c.Cgroup, Image: config, Rootfs: passwdDir(lower),
			HostNetwork: c.Network.Mode == "host", Seccomp: true})
		if err != nil {
			return nil, err
		}
	}
	c.Args = sp.Process.Args
	reserved, err := l.reserve([]snapshot.Container{c})
	if err != nil {
		return nil, err
	}
	started, err := l.start(ctx, c, sp, lower)
	if err != nil {
		return nil, errors.Join(err, l.drop(reserved))
	}
	reserved[0].keep()
	return started, nil
}

func (l *Local) start(ctx context.Context, c snapshot.Container, sp *specs.Spec, lower []string) (*snapshot.Container, error) {
	b, err := json.Marshal(sp)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(shim.ContainerDir(l.cfg.Root, c.ID), "config.json"), b, 0o600); err != nil {
		return nil, err
	}
	client, err := l.spawn(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	started, err := client.Start(ctx, c.ID, shim.StartRequest{Record: c, Lower: lower})
	if err != nil {
		return nil, err
	}
	return &started, nil
}

// newRecord returns the record of a container to be made.
func (l *Local) newRecord(name string) snapshot.Container {
	id := snapshot.NewID()
	if name == "" {
		name = snapshot.ShortID(id)
	}
	return snapshot.Container{ID: id, Name: name, Status: snapshot.StatusCreating, Created: time.Now().UTC(),
		Cgroup: l.cgroupOf(id), LogMaxBytes: cmp.Or(l.cfg.LogMaxBytes, defaultLogMax)}
}

func (l *Local) cgroupOf(id string) string { return l.cgroupParent() + "/" + id }

// defaultLogMax is how long a log becomes where nothing was asked for: long enough to find out what went wrong, and a
// burst of clones that log without end fills no disk.
const defaultLogMax = 64 << 20

// rootfs finds what the container stands on, and for a bundle its spec.
func (l *Local) rootfs(ctx context.Context, r RunRequest, c *snapshot.Container) (snapshot.Base, *v1.ImageConfig, *specs.Spec, error) {
	var none snapshot.Base
	switch {
	case r.Bundle != "":
		sp, dir, err := spec.FromBundle(r.Bundle)
		c.Image = r.Bundle
		return snapshot.Base{Dir: dir}, nil, sp, err
	case r.Rootfs != "":
		dir, err := filepath.Abs(r.Rootfs)
		if err != nil {
			return none, nil, nil, err
		}
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return none, nil, nil, &snapshot.Error{Kind: snapshot.KindNotFound, Op: "run", On: r.Rootfs,
				Err: errors.New("not a directory"), Hint: "--rootfs takes a directory with bin, etc, usr, …"}
		}
		c.Image = dir
		return snapshot.Base{Dir: dir}, nil, nil, nil
	}
	c.Image = r.Image
	base, config, err := l.image(ctx, r)
	return base, config, nil, err
}

// image returns the layers and the configuration of an image. A registry reference that was loaded before is not asked
// for again; files are read every time, because they may have changed.
func (l *Local) image(ctx context.Context, r RunRequest) (snapshot.Base, *v1.ImageConfig, error) {
	base, raw, err := l.store.Image(r.Image)
	_, statErr := os.Stat(r.Image)
	if err != nil && snapshot.KindOf(err) != snapshot.KindNotFound {
		return base, nil, err
	}
	if err != nil || statErr == nil {
		img, err := image.Load(ctx, r.Image, l.store, image.Options{Insecure: r.Insecure})
		if err != nil {
			return base, nil, err
		}
		base, raw = snapshot.Base{Layers: img.Layers}, img.Raw
		if len(raw) == 0 {
			raw = []byte("{}") // a root file system without a configuration
		}
		if err := l.store.PinImage(r.Image, base, raw); err != nil {
			return base, nil, err
		}
	}
	var config v1.Image
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &config); err != nil {
			return base, nil, &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "run", On: r.Image, Err: err}
		}
	}
	return base, &config.Config, nil
}

// passwdDir returns the directory among the layers that holds the container's user table.
func passwdDir(lower []string) string {
	for _, d := range lower {
		if _, err := os.Stat(filepath.Join(d, "etc", "passwd")); err == nil {
			return d
		}
	}
	if len(lower) > 0 {
		return lower[len(lower)-1]
	}
	return ""
}

package store

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// The files of the checkpoint archive that podman and CRI-O write and checkpointctl reads. What lies below podmanOwn is
// ours: the others ignore it, and it brings back what their files cannot say.
const (
	podmanImages  = "checkpoint"
	podmanConfig  = "config.dump"
	podmanSpec    = "spec.dump"
	podmanNetwork = "network.status"
	podmanDiff    = "rootfs-diff.tar"
	podmanDeleted = "deleted.files"
	podmanStats   = "stats-dump"
	podmanShm     = "devshm-checkpoint.tar"
	podmanOwn     = "snapd-ctr"
	podmanVolumes = "volumes"

	ownConfig  = podmanOwn + "/config.json"
	ownContent = podmanOwn + "/content/"
	shmPath    = "/dev/shm"
)

// podmanContainer is the part of config.dump that its readers agree on.
type podmanContainer struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Image   string    `json:"rootfsImageName,omitempty"`
	Runtime string    `json:"runtime,omitempty"`
	Created time.Time `json:"createdTime"`
	Taken   time.Time `json:"checkpointedTime,omitzero"`
}

// ExportPodman writes the snapshot as a checkpoint archive of podman and CRI-O, compressed with zstd. The archive does
// not hold what lies beneath the container's own files; whoever imports it needs the same image or directory.
func (s *Store) ExportPodman(ctx context.Context, id string, w io.Writer) error {
	sn, err := s.Get(id)
	if err != nil {
		return err
	}
	e, err := s.newLease()
	if err != nil {
		return failure("export", id, err)
	}
	defer e.Close()
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return err
	}
	defer z.Close()
	x := &podmanOut{s: s, e: e, sn: sn, tar: tar.NewWriter(z)}
	for _, step := range []func(context.Context) error{x.records, x.images, x.rootfs, x.contents} {
		if err := step(ctx); err != nil {
			return failure("export", snapshot.ShortID(id), err)
		}
	}
	if err := x.tar.Close(); err != nil {
		return failure("export", snapshot.ShortID(id), err)
	}
	return failure("export", snapshot.ShortID(id), z.Close())
}

type podmanOut struct {
	s   *Store
	e   *lease
	sn  *snapshot.Snapshot
	tar *tar.Writer
}

// json adds a file.
func (x *podmanOut) json(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return x.file(name, int64(len(b)), bytes.NewReader(b))
}

func (x *podmanOut) file(name string, size int64, r io.Reader) error {
	if err := x.tar.WriteHeader(fileHeader(name, size)); err != nil {
		return err
	}
	_, err := io.CopyN(x.tar, r, size)
	return err
}

func (x *podmanOut) directory(name string) error {
	return x.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o700, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

func (x *podmanOut) records(context.Context) error {
	cfg := x.sn.Config
	spec, err := podmanSpecOf(cfg)
	if err != nil {
		return err
	}
	c := podmanContainer{ID: cfg.Source.ID, Name: cfg.Source.Name, Image: cfg.Source.Image, Runtime: "runc",
		Created: cfg.Created, Taken: cfg.Created}
	err = errors.Join(x.json(podmanConfig, c), x.json(podmanSpec, spec), x.directory(podmanOwn), x.json(ownConfig, cfg))
	if err == nil && cfg.Network.Address.IsValid() {
		err = x.json(podmanNetwork, networkStatus(cfg.Network))
	}
	return err
}

// podmanSpecOf returns the container's OCI spec, marked as podman marks it: readers take the archive for one of
// CRI-O or containerd otherwise.
func podmanSpecOf(cfg snapshot.Config) (map[string]any, error) {
	spec := map[string]any{"ociVersion": "1.2.0", "process": map[string]any{"args": cfg.Args, "cwd": "/"}, "hostname": cfg.Source.Hostname}
	if len(cfg.Spec) > 0 {
		spec = make(map[string]any)
		if err := json.Unmarshal(cfg.Spec, &spec); err != nil {
			return nil, corrupt("export", "spec", "%w", err)
		}
	}
	annotations, _ := spec["annotations"].(map[string]any)
	if annotations == nil {
		annotations = make(map[string]any)
	}
	annotations["io.container.manager"] = "libpod"
	spec["annotations"] = annotations
	return spec, nil
}

// networkStatus is podman's record of what its network plugins did.
func networkStatus(n snapshot.Network) any {
	type subnet struct {
		Net     string     `json:"ipnet"`
		Gateway netip.Addr `json:"gateway,omitzero"`
	}
	type device struct {
		MAC     string   `json:"mac_address,omitempty"`
		Subnets []subnet `json:"subnets"`
	}
	type network struct {
		Interfaces map[string]device `json:"interfaces"`
	}
	net := netip.PrefixFrom(n.Address, n.Bits)
	return map[string]network{n.Bridge: {Interfaces: map[string]device{
		"eth0": {MAC: n.MAC, Subnets: []subnet{{Net: net.String(), Gateway: n.Gateway}}}}}}
}

// images adds CRIU's images and the pages. CRIU's statistics have a place of their own in these archives.
func (x *podmanOut) images(ctx context.Context) error {
	if err := x.directory(podmanImages); err != nil {
		return err
	}
	stats := false
	for _, l := range x.sn.Layers {
		var err error
		switch l.Role {
		case snapshot.RoleImages:
			err = x.s.checked(l.Digest, func(r io.Reader) error {
				return eachImage(contextReader{ctx, r}, func(name string, size int64, content io.Reader) error {
					if name == podmanStats {
						stats = true
					} else {
						name = podmanImages + "/" + name
					}
					return x.file(name, size, content)
				})
			})
		case snapshot.RolePages:
			err = x.s.checked(l.Digest, func(r io.Reader) error {
				return x.file(podmanImages+"/"+l.Name, l.Size, contextReader{ctx, r})
			})
		}
		if err != nil {
			return err
		}
	}
	if stats {
		return nil
	}
	b := dumpStats(x.sn.Config)
	return x.file(podmanStats, int64(len(b)), bytes.NewReader(b))
}

// contents adds what was in the container's tmpfs mounts: all of them as ours, and /dev/shm as podman does.
func (x *podmanOut) contents(ctx context.Context) error {
	keys := make(map[string]string)
	for _, m := range x.sn.Config.Mounts {
		keys[m.Key] = m.Path
	}
	var added []string
	for _, l := range x.sn.Layers {
		if l.Role != snapshot.RoleContent {
			continue
		}
		names := []string{ownContent + hexOf(l.Digest)}
		if keys[l.Name] == shmPath {
			names = append(names, podmanShm)
		}
		for _, name := range names {
			if slices.Contains(added, name) {
				continue
			}
			added = append(added, name)
			err := x.s.checked(l.Digest, func(r io.Reader) error { return x.file(name, l.Size, contextReader{ctx, r}) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// rootfs adds the container's own files as podman has them: a plain tar of what is new or changed, and a list of what
// is gone.
func (x *podmanOut) rootfs(ctx context.Context) error {
	var own []snapshot.Layer
	for _, l := range x.sn.Layers {
		if l.Role == snapshot.RoleRootfs {
			own = append(own, l)
		}
	}
	if len(own) == 0 {
		return nil
	}
	if len(own) > 1 {
		return incompatible("export", snapshot.ShortID(x.sn.ID), "export it in the format oci", "this archive format has room for one layer")
	}
	lower, err := x.s.LayerDirs(ctx, x.sn.Config.Base)
	if err != nil {
		return err
	}
	blob := x.s.blobPath(own[0].Digest)
	deleted, err := deletions(blob, lower)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(plainDiff(w, blob)) }()
	b, err := x.e.stage(contextReader{ctx, r})
	r.CloseWithError(err)
	if err != nil {
		return err
	}
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := x.file(podmanDiff, b.size, f); err != nil || len(deleted) == 0 {
		return err
	}
	return x.json(podmanDeleted, deleted)
}

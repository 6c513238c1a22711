package store

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// ImportPodman reads a checkpoint archive of podman or CRI-O, or one that ExportPodman wrote, and publishes it as a
// snapshot. The archive does not hold the image that its container was made of: base says what to use, or, when it is
// nil, the image of the archive's own name is used if it was pulled. Without either the error is KindIncompatible.
//
// adopt is called for an archive that is not of ours, with the directory of CRIU's images and what the archive says: it
// makes both fit for clones, its mounts among them, or refuses. accept, unless it is nil, is then asked whether the record may be
// published, whoever's archive it is.
func (s *Store) ImportPodman(ctx context.Context, r io.Reader, name string, base *snapshot.Base, adopt Adopt, accept func(snapshot.Config) error) (*snapshot.Snapshot, error) {
	t, err := s.Begin()
	if err != nil {
		return nil, err
	}
	defer t.Abort()
	a := &podmanIn{t: t, images: filepath.Join(t.Dir(), dirImages), contents: make(map[string]*staged)}
	if err := os.Mkdir(a.images, 0o700); err != nil {
		return nil, failure("import", s.dir, err)
	}
	if err := readArchive(ctx, r, a.entry); err != nil {
		return nil, err
	}
	return a.publish(ctx, name, base, adopt, accept)
}

// Adopt makes the images and the record of somebody else's dump fit for clones. It returns the mode that the container's
// root directory must have, which the archive says nowhere else; 0 is that of the image.
type Adopt func(images string, cfg *snapshot.Config) (root uint32, err error)

// podmanIn is an archive that is being read: its files, staged.
type podmanIn struct {
	t                          *Txn
	images                     string // directory
	config, spec, deleted, own []byte
	network                    []byte
	root                       uint32 // mode of the root directory, 0 where it is the image's
	diff, shm                  *staged
	contents                   map[string]*staged // by the digits of its digest
	volumes                    []string
}

func (a *podmanIn) entry(h *tar.Header, name string, r io.Reader) (err error) {
	dir, base := path.Split(name)
	switch {
	case h.Typeflag == tar.TypeSymlink && name == podmanImages+"/parent":
		return incompatible("import", "the archive", "make the checkpoint without --pre-checkpoint and --with-previous",
			"it needs an earlier checkpoint that it does not hold")
	case h.Typeflag != tar.TypeReg:
		return errStranger
	case name == podmanConfig:
		a.config, err = readSmall(r, h.Size)
	case name == podmanSpec:
		a.spec, err = readSmall(r, h.Size)
	case name == podmanNetwork:
		a.network, err = readSmall(r, h.Size)
	case name == podmanDeleted:
		a.deleted, err = readSmall(r, h.Size)
	case name == ownConfig:
		a.own, err = readSmall(r, h.Size)
	case name == podmanDiff:
		a.diff, err = a.t.e.stage(r)
	case name == podmanShm:
		a.shm, err = a.t.e.stage(r)
	case dir == ownContent:
		a.contents[base], err = a.t.e.stage(r)
		if err == nil && hexOf(a.contents[base].digest) != base {
			err = fmt.Errorf("its content has the digest %s", a.contents[base].digest)
		}
	case dir == podmanImages+"/" || name == podmanStats:
		err = a.image(base, r)
	case dir == podmanVolumes+"/":
		a.volumes = append(a.volumes, base)
	}
	return err
}

// image stages one of CRIU's files.
func (a *podmanIn) image(name string, r io.Reader) error {
	f, err := os.OpenFile(filepath.Join(a.images, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func (a *podmanIn) publish(ctx context.Context, name string, base *snapshot.Base, adopt Adopt, accept func(snapshot.Config) error) (*snapshot.Snapshot, error) {
	if _, err := os.Stat(filepath.Join(a.images, "inventory.img")); err != nil || a.config == nil || a.spec == nil {
		return nil, &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "import", On: "the archive",
			Err:  errors.New("it lacks config.dump, spec.dump or checkpoint/inventory.img"),
			Hint: "is it what `podman container checkpoint --export` wrote, and all of it?"}
	}
	cfg, err := a.translate()
	if err != nil {
		return nil, err
	}
	if cfg.Base, err = a.base(cfg, base); err != nil {
		return nil, err
	}
	if err := checkForeign("the archive", snapshot.Config{Architecture: cfg.Architecture}); err != nil {
		return nil, err
	}
	if a.own == nil {
		if a.root, err = adopt(a.images, cfg); err != nil {
			return nil, err
		}
	}
	if accept != nil {
		if err := accept(*cfg); err != nil {
			return nil, err
		}
	}
	layers, err := a.t.AddImages(a.images)
	if err != nil {
		return nil, err
	}
	for _, add := range []func(context.Context, *snapshot.Config) ([]snapshot.Layer, error){a.rootfs, a.mounts} {
		more, err := add(ctx, cfg)
		if err != nil {
			return nil, err
		}
		layers = append(layers, more...)
	}
	for _, l := range layers {
		if err := checkTarLayer(ctx, a.t.s.blobPath(l.Digest), l); err != nil {
			return nil, err
		}
	}
	return a.t.Publish(name, *cfg, layers, false)
}

// base decides what the container's own files lie on. An archive cannot choose a directory of this host.
func (a *podmanIn) base(cfg *snapshot.Config, given *snapshot.Base) (snapshot.Base, error) {
	if given != nil {
		return *given, nil
	}
	if own := cfg.Base; own.Dir == "" && len(own.Layers) > 0 && !slices.ContainsFunc(own.Layers, a.lacks) {
		return own, nil
	}
	b, _, err := a.t.s.Image(cfg.Source.Image)
	if snapshot.KindOf(err) == snapshot.KindNotFound {
		return b, incompatible("import", "the archive", "say what it is, with --base IMAGE or --base DIR, or pull the image first",
			"it does not hold its container's image (%q)", cfg.Source.Image)
	}
	return b, err
}

func (a *podmanIn) lacks(layer string) bool {
	if checkDigest(layer) != nil {
		return true
	}
	_, err := os.Stat(a.t.s.blobPath(layer))
	return err != nil
}

// translate makes a config of what the archive says.
func (a *podmanIn) translate() (*snapshot.Config, error) {
	if a.own != nil {
		cfg := new(snapshot.Config)
		return cfg, decodeConfig(a.own, ownConfig, cfg)
	}
	var c podmanContainer
	if err := json.Unmarshal(a.config, &c); err != nil {
		return nil, archiveError(podmanConfig, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(a.spec, &spec); err != nil {
		return nil, archiveError(podmanSpec, err)
	}
	cfg := &snapshot.Config{Version: snapshot.ConfigVersion, Created: c.Created, Architecture: runtime.GOARCH,
		Source: snapshot.Source{Runtime: "podman", ID: c.ID, Name: c.Name, Image: c.Image, Hostname: spec.Hostname},
		Spec:   a.spec, Limits: limitsOf(spec.Linux), Network: snapshot.Network{Mode: "host"}}
	if !c.Taken.IsZero() {
		cfg.Created = c.Taken
	}
	if cfg.Created.IsZero() {
		cfg.Created = time.Now().UTC()
	}
	if spec.Process != nil {
		cfg.Args = spec.Process.Args
	}
	if hasNamespace(spec.Linux, specs.NetworkNamespace) {
		cfg.Network.Mode = "none"
		var attached map[string]any
		if json.Unmarshal(a.network, &attached) == nil && len(attached) > 0 {
			cfg.Network.Mode = "bridge"
		}
	}
	cfg.Findings = append(cfg.Findings, snapshot.Finding{Code: "imported",
		Detail: "a checkpoint of podman or CRI-O; what its archive does not say was assumed"})
	for _, v := range a.volumes {
		cfg.Findings = append(cfg.Findings, snapshot.Finding{Code: "volume-not-imported",
			Detail: "the content of the volume " + strings.TrimSuffix(v, ".tar"), Remedy: "extract it from the archive by hand"})
	}
	return cfg, nil
}

func hasNamespace(l *specs.Linux, t specs.LinuxNamespaceType) bool {
	return l != nil && slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
}

func limitsOf(l *specs.Linux) (limits snapshot.Limits) {
	if l == nil || l.Resources == nil {
		return limits
	}
	r := l.Resources
	if r.Memory != nil && r.Memory.Limit != nil {
		limits.MemoryBytes = max(0, *r.Memory.Limit)
	}
	if r.CPU != nil && r.CPU.Quota != nil && r.CPU.Period != nil && *r.CPU.Quota > 0 && *r.CPU.Period > 0 {
		limits.CPUs = float64(*r.CPU.Quota) / float64(*r.CPU.Period)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		limits.Pids = max(0, *r.Pids.Limit)
	}
	return limits
}

// rootfs makes one OCI layer of the tar of changed files and the list of deleted ones.
func (a *podmanIn) rootfs(ctx context.Context, cfg *snapshot.Config) ([]snapshot.Layer, error) {
	if a.diff == nil && a.deleted == nil && a.root == 0 {
		return nil, nil
	}
	var deleted []string
	if a.deleted != nil {
		if err := json.Unmarshal(a.deleted, &deleted); err != nil {
			return nil, archiveError(podmanDeleted, err)
		}
	}
	lower, err := a.t.s.LayerDirs(ctx, cfg.Base)
	if err != nil {
		return nil, err
	}
	m := &merge{lower: lower, root: a.root, seen: make(map[string]bool)}
	var diff string
	if a.diff != nil {
		diff = a.diff.path
	}
	l, err := a.t.addStream(func(w io.Writer) error { return m.write(w, diff, deleted) },
		v1.MediaTypeImageLayer, snapshot.RoleRootfs, "")
	if err != nil {
		return nil, archiveError(podmanDiff, errors.Unwrap(err))
	}
	return []snapshot.Layer{l}, nil
}

// mounts adds the content of mounts.
func (a *podmanIn) mounts(_ context.Context, cfg *snapshot.Config) (layers []snapshot.Layer, err error) {
	for i := range cfg.Mounts {
		m := &cfg.Mounts[i]
		file := a.contents[hexOf(m.Content)]
		if a.own == nil && m.Path == shmPath {
			file = a.shm
		}
		if file == nil {
			if m.Content != "" {
				return nil, corrupt("import", ownContent+hexOf(m.Content), "the content of %s is missing from the archive", m.Path)
			}
			continue
		}
		l, err := a.t.addStaged(file, snapshot.MediaContent, snapshot.RoleContent, m.Key)
		if err != nil {
			return nil, err
		}
		m.Content = l.Digest
		layers = append(layers, l)
	}
	return layers, nil
}

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Make makes the mounts of one clone. On an error nothing is left but the directories of p.
func (b *Blueprint) Make(p Parts) (_ *DetachedMounts, err error) {
	d := &DetachedMounts{mounts: make([]*sys.DetachedMount, 0, len(b.mounts))}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	for i := range b.mounts {
		m, err := b.make(i, p)
		if m != nil {
			d.mounts = append(d.mounts, m)
		}
		if err != nil {
			if snapshot.KindOf(err) != snapshot.KindFailed {
				return nil, err
			}
			return nil, fmt.Errorf("prepare mount %s: %w", b.mounts[i].Path, err)
		}
	}
	return d, nil
}

// make makes one mount. The mount is there with an error, too, if it is to be closed.
func (b *Blueprint) make(i int, p Parts) (*sys.DetachedMount, error) {
	m, flags := b.mounts[i], b.flags[i]
	switch m.Kind {
	case snapshot.MountRoot:
		return b.root(p, flags)
	case snapshot.MountTmpfs:
		return filled(m.Options, flags, len(b.trees[i]) > 0, b.trees[i].make)
	case snapshot.MountFile:
		return filled(m.Options, flags, true, func(dir sys.Dir) error { return b.makeFiles(dir, p.Files) })
	case snapshot.MountNull:
		return sys.DetachedBind("/dev/null", flags)
	case snapshot.MountBind:
		return detachedVolume(m, flags)
	case snapshot.MountCgroup:
		if p.CgroupPath == "" {
			return nil, fmt.Errorf("it shows the container's cgroup %q, and the clone has none", m.Source)
		}
		source, err := OpenCgroup(p.CgroupPath).Dir(m.Source)
		if err != nil {
			return nil, err
		}
		return sys.DetachedBind(source+m.Sub, flags)
	default:
		return nil, fmt.Errorf("%s is no kind of external mount", m.Kind)
	}
}

// root makes the overlay and what mount points it lacks.
func (b *Blueprint) root(p Parts, flags sys.MountFlags) (*sys.DetachedMount, error) {
	if p.Root != nil {
		return p.Root.mount.Again()
	}
	// Both are mostly missing, and their parent is there.
	if err := os.Mkdir(p.Work, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		if err := os.MkdirAll(p.Work, 0o700); err != nil {
			return nil, err
		}
	}
	if err := makeUpper(p.Upper, b.lower[0]); err != nil {
		return nil, err
	}
	var options []sys.MountOption
	if p.Volatile {
		options = []sys.MountOption{{Key: "volatile"}}
	}
	o, err := sys.NewDetachedOverlay(b.lower, p.Upper, p.Work, options, flags.Writable())
	if err != nil {
		return nil, err
	}
	if err := b.makePlaces(o); err != nil {
		return o, err
	}
	if flags.Readonly() {
		return o, o.SetFlags(flags)
	}
	return o, nil
}

func (b *Blueprint) makePlaces(o *sys.DetachedMount) error {
	if len(b.places) == 0 {
		return nil
	}
	root, err := os.OpenRoot(sys.FDPath(o.File(), ""))
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range b.places {
		if err := mountPoint(root, m); err != nil {
			return fmt.Errorf("mount point %s: %w", m.Path, err)
		}
	}
	return nil
}

// filled makes a tmpfs, with content where there is any.
func filled(options string, flags sys.MountFlags, content bool, fill func(sys.Dir) error) (*sys.DetachedMount, error) {
	if !content {
		return sys.NewDetached("tmpfs", sys.ParseMountOptions(options), flags)
	}
	options, readonly := withoutReadonly(options)
	m, err := sys.NewDetached("tmpfs", sys.ParseMountOptions(options), flags.Writable())
	if err != nil {
		return nil, err
	}
	if err := fill(sys.DirOf(m.File())); err != nil {
		return m, err
	}
	if readonly {
		if err := m.SetReadonly(); err != nil {
			return m, err
		}
	}
	if flags.Readonly() {
		return m, m.SetFlags(flags)
	}
	return m, nil
}

// makeFiles makes what mounts of kind file show.
func (b *Blueprint) makeFiles(dir sys.Dir, own map[string][]byte) error {
	for _, f := range b.files {
		content, ok := own[f.path]
		if !ok {
			if err := f.content.make(dir); err != nil {
				return err
			}
			continue
		}
		n := node{name: f.name, mode: syscall.S_IFREG | 0o644, content: content, bare: true}
		if err := n.create(dir); err != nil {
			return err
		}
		if err := dir.Chmod(f.name, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func detachedVolume(m snapshot.Mount, flags sys.MountFlags) (*sys.DetachedMount, error) {
	d, err := sys.DetachedBind(m.Source, flags)
	if errors.Is(err, os.ErrNotExist) {
		return nil, missingVolume(m, err)
	}
	return d, err
}

// Rewrite replaces the content of files that are one clone's alone, in mounts that were made before it was known which.
func (b *Blueprint) Rewrite(d *DetachedMounts, own map[string][]byte) error {
	if len(b.files) == 0 {
		return nil
	}
	files := sys.DirOf(d.mounts[len(d.mounts)-1].File())
	for _, f := range b.files {
		if content, ok := own[f.path]; ok {
			if err := files.Rewrite(f.name, content); err != nil {
				return err
			}
		}
	}
	return nil
}

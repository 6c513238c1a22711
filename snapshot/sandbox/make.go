package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Make makes the mounts of one clone. On an error nothing is left but the directories of p.
func (b *Blueprint) Make(p Parts) (_ *DetachedMounts, err error) {
	m := &maker{Blueprint: b, Parts: p, first: make(map[string]*sys.DetachedMount), d: &DetachedMounts{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.d.Close())
		}
		for _, mount := range m.attached {
			_ = mount.Close()
		}
	}()
	if err := m.root(); err != nil {
		return nil, says(b.handed[0], err)
	}
	if len(b.files) > 0 {
		if err := m.makeStore(); err != nil {
			return nil, says(b.store, err)
		}
	}
	for _, part := range b.ahead {
		if err := m.attach(part); err != nil {
			return nil, says(part, err)
		}
	}
	for _, part := range b.handed[1:] {
		if err := m.hand(part); err != nil {
			return nil, says(part, err)
		}
	}
	return m.d, nil
}

func says(p part, err error) error {
	if snapshot.KindOf(err) != snapshot.KindFailed {
		return err
	}
	return fmt.Errorf("prepare mount %s: %w", p.Path, err)
}

// maker makes the mounts of one clone.
type maker struct {
	*Blueprint
	Parts
	d        *DetachedMounts
	first    map[string]*sys.DetachedMount // by key: the first mount of each, of which others show the same
	attached []*sys.DetachedMount          // those of them that lie on the root
}

// attach makes a mount and puts it onto the root.
func (m *maker) attach(p part) error {
	mount, err := m.make(p)
	if err != nil {
		return err
	}
	if err := mount.AttachTo(m.d.mounts[0], p.Path); err != nil {
		return errors.Join(err, mount.Close())
	}
	if p.Key != "" && m.first[p.Key] == nil {
		m.first[p.Key] = mount
		m.attached = append(m.attached, mount)
		return nil
	}
	return mount.Close()
}

// hand makes a mount that the clone is handed.
func (m *maker) hand(p part) error {
	if p.Kind == snapshot.MountFile {
		m.d.mounts = append(m.d.mounts, m.d.files)
		return nil
	}
	mount, err := m.make(p)
	if err == nil {
		m.d.mounts = append(m.d.mounts, mount)
	}
	return err
}

// make makes one mount.
func (m *maker) make(p part) (*sys.DetachedMount, error) {
	if first := m.first[p.Key]; first != nil {
		again, err := first.Again()
		if err != nil {
			return nil, err
		}
		return flagged(again, p.flags)
	}
	switch p.Kind {
	case snapshot.MountTmpfs:
		return filled(p.Options, p.flags, len(p.content) > 0, p.content.make)
	case snapshot.MountFile:
		i := slices.IndexFunc(m.files, func(f fileCopy) bool { return f.key == p.Key })
		mount, err := m.d.files.Part(m.files[i].name)
		if err != nil {
			return nil, err
		}
		return flagged(mount, p.flags)
	case snapshot.MountNative:
		return m.native(p)
	case snapshot.MountNull:
		return sys.DetachedBind("/dev/null", p.flags)
	case snapshot.MountBind:
		return detachedVolume(p.Mount, p.flags)
	case snapshot.MountCgroup:
		if m.CgroupPath == "" {
			return nil, fmt.Errorf("it shows the container's cgroup %q, and the clone has none", p.Source)
		}
		source, err := OpenCgroup(m.CgroupPath).Dir(p.Source)
		if err != nil {
			return nil, err
		}
		return sys.DetachedBind(source+p.Sub, p.flags)
	default:
		return nil, fmt.Errorf("%s is no kind of external mount", p.Kind)
	}
}

// flagged gives a mount its flags, or closes it.
func flagged(mount *sys.DetachedMount, flags sys.MountFlags) (*sys.DetachedMount, error) {
	if err := mount.SetFlags(flags); err != nil {
		return nil, errors.Join(err, mount.Close())
	}
	return mount, nil
}

// native makes a file system of which there is nothing to be captured. A sysfs shows the network namespace of who makes it.
func (m *maker) native(p part) (mount *sys.DetachedMount, err error) {
	fresh := func() (err error) {
		mount, err = sys.NewDetached(p.FSType, sys.ParseMountOptions(p.Options), p.flags)
		return err
	}
	if p.FSType == "sysfs" && m.Netns != nil {
		err = sys.InNetns(m.Netns.f, fresh)
	} else {
		err = fresh()
	}
	return mount, err
}

// store makes the file system with files.
func (m *maker) makeStore() (err error) {
	s := m.store
	m.d.files, err = filled(s.Options, s.flags, true, func(dir sys.Dir) error { return m.makeFiles(dir, m.Files) })
	return err
}

// root makes the overlay and what mount points it lacks.
func (m *maker) root() error {
	root, err := m.overlay(m.Parts, m.handed[0].flags)
	if root != nil {
		m.d.mounts = append(m.d.mounts, root)
	}
	return err
}

// overlay makes the root file system. It is there with an error, too, if it is to be closed.
func (b *Blueprint) overlay(p Parts, flags sys.MountFlags) (*sys.DetachedMount, error) {
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
	o, err := sys.NewDetachedOverlay(b.lower, p.Upper, p.Work, nil, flags.Writable())
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
	if err = fill(sys.DirOf(m.File())); err == nil && readonly {
		err = m.SetReadonly()
	}
	if err == nil && flags.Readonly() {
		err = m.SetFlags(flags)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
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
	if d.files == nil {
		return nil
	}
	files := sys.DirOf(d.files.File())
	for _, f := range b.files {
		if content, ok := own[f.path]; ok {
			if err := files.Rewrite(f.name, content); err != nil {
				return err
			}
		}
	}
	return nil
}

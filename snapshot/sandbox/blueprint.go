package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Blueprint is all that can be known beforehand about the mounts of a snapshot's clones: what is in them is read once, and
// what is missing in the root file system is looked for once. It may be used by several goroutines.
type Blueprint struct {
	lower  []string
	handed []part // Detached of the plan
	ahead  []part // what is attached to the root beforehand, in that order
	store  part   // the file system with files; valid where there are some
	files  []fileCopy
	places []snapshot.Mount // mount points that the root file system lacks
}

// part is a mount of the plan and what can be known of it beforehand.
type part struct {
	snapshot.Mount
	flags   sys.MountFlags
	content tree // of a tmpfs
}

// fileCopy is a mount of kind file and the captured content of it.
type fileCopy struct {
	path, key, name string
	content         tree
}

// Parts are what is one clone's alone.
type Parts struct {
	Upper, Work string            // directories of one file system; made where they are missing
	Files       map[string][]byte // container path -> what takes the place of the captured content there
	CgroupPath  string            // as in [PrepareOptions]
	Netns       *Netns            // that of the clone, for a sysfs; nil: the host's
	// Root is the root file system of a clone that is gone, to be had again; Upper and Work are not looked at then.
	Root *SpareRoot
}

// NewBlueprint reads what clones of a snapshot need: lower are the directories of its root file system, topmost first,
// mounts its plan, contents what [PrepareMounts] takes, ahead what [Detached] takes. The directories must stay as they are.
func NewBlueprint(lower []string, mounts []snapshot.Mount, contents map[string]string, ahead []int) (*Blueprint, error) {
	if len(lower) == 0 {
		return nil, errors.New("make mounts: no lower directory")
	}
	b := &Blueprint{lower: slices.Clone(lower)}
	read := func(m snapshot.Mount) (part, error) {
		p := part{Mount: m}
		var err error
		if p.flags, err = sys.ParseMountFlags(m.Flags); err == nil && m.Kind == snapshot.MountTmpfs {
			p.content, err = tmpfsTree(m, mounts, contents[m.Key])
		}
		if err != nil {
			return p, fmt.Errorf("prepare mount %s: %w", m.Path, err)
		}
		return p, nil
	}
	for _, m := range Detached(mounts, ahead) {
		p, err := read(m)
		if err != nil {
			return nil, err
		}
		b.handed = append(b.handed, p)
	}
	if len(b.handed) == 0 || b.handed[0].Kind != snapshot.MountRoot {
		return nil, errors.New("make mounts: the plan has no root")
	}
	for _, i := range ahead {
		p, err := read(mounts[i])
		if err != nil {
			return nil, err
		}
		b.ahead = append(b.ahead, p)
	}
	if files := slices.DeleteFunc(slices.Clone(mounts), func(m snapshot.Mount) bool { return m.Kind != snapshot.MountFile }); len(files) > 0 {
		var err error
		if b.store, err = read(filesMount(files)); err != nil {
			return nil, err
		}
	}
	if err := b.readFiles(mounts, contents); err != nil {
		return nil, err
	}
	var err error
	b.places, err = missing(lower, mounts)
	return b, err
}

// tmpfsTree reads the content of a tmpfs and adds the places at which other mounts of the container will be.
func tmpfsTree(m snapshot.Mount, all []snapshot.Mount, content string) (t tree, err error) {
	if content != "" {
		if t, err = readTree(content); err != nil {
			return nil, err
		}
	}
	for _, o := range all {
		if rel, err := filepath.Rel(m.Path, o.Path); err == nil && filepath.IsLocal(rel) {
			t = t.place(rel, showsFile(o))
		}
	}
	return t, nil
}

func (b *Blueprint) readFiles(mounts []snapshot.Mount, contents map[string]string) error {
	names := FileNames(mounts)
	for _, m := range distinct(mounts) {
		if m.Kind != snapshot.MountFile {
			continue
		}
		content, err := fileTree(m, contents[m.Key])
		if err != nil {
			return fmt.Errorf("prepare mount %s: %w", m.Path, err)
		}
		b.files = append(b.files, fileCopy{m.Path, m.Key, names[m.Key], content.below(names[m.Key])})
	}
	return nil
}

// fileTree reads a captured file, which may come as a directory that holds nothing but the file, or directory.
func fileTree(m snapshot.Mount, content string) (tree, error) {
	if content == "" {
		return tree{{name: ".", mode: syscall.S_IFREG | 0o644, bare: true}}, nil
	}
	inner := filepath.Join(content, filepath.Base(m.Path))
	if info, err := os.Lstat(inner); err == nil && info.Mode().IsRegular() {
		content = inner
	}
	return readTree(content)
}

// below returns the tree with its top at name.
func (t tree) below(name string) tree {
	out := slices.Clone(t)
	for i := range out {
		out[i].name = path.Join(name, out[i].name)
		if out[i].link != "" {
			out[i].link = path.Join(name, out[i].link)
		}
	}
	return out
}

// missing returns the mounts whose mount points are not in the root file system.
func missing(lower []string, mounts []snapshot.Mount) (list []snapshot.Mount, err error) {
	top := lower[0]
	if len(lower) > 1 {
		o, err := sys.NewDetachedOverlay(lower, "", "", nil, 0)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		top = sys.FDPath(o.File(), "")
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, m := range mounts {
		if m.Kind == snapshot.MountRoot || !onRoot(m, mounts) {
			continue
		}
		_, err := root.Lstat(strings.TrimPrefix(m.Path, "/"))
		if errors.Is(err, fs.ErrNotExist) {
			list = append(list, m)
		} else if err != nil {
			return nil, fmt.Errorf("mount point %s: %w", m.Path, err)
		}
	}
	return list, nil
}

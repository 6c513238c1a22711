package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// PrepareOptions says what of a clone's mounts is its own.
type PrepareOptions struct {
	Files      map[string]string // container path -> host file that takes the place of the captured content
	CgroupPath string            // the clone's, below each hierarchy; needed where a mount shows the container's own cgroup
}

// PrepareMounts makes below dir, in the caller's mount namespace, what CRIU is to bind in the place of each external
// mount, and returns the externals as a restore wants them: "mnt[KEY]:SOURCE". contents has by key a directory with the
// content of a mount, or the file itself for a mount that shows a file; a mount without content is empty. On an
// error nothing is left below dir.
//
// What CRIU 4.2.1 needs of the sources, as found out with real containers:
//
//   - CRIU takes the bind's own mount only, never what is mounted below it, so nested mounts each need an entry, and their
//     mount points must exist in the source beneath (it makes none: "Failed to move_mount … No such file").
//   - It applies the per-mount flags (ro, nosuid, noexec, …) of the original to each bind. Flags of the super block are
//     those of the source: a read-only tmpfs must be made so here.
//   - Where the original was the slave of a mount of the host, the source must be shared or a slave itself: "Failed to copy
//     sharing from source". All sources are mounts below one shared mount and therefore shared. That does for images that
//     were never rewritten; what else CRIU wants of slaves only [ForgetMasters] can give.
//   - It joins cgroups by path of its own unless told to leave them alone, in which case it makes no cgroup namespace either: the
//     clone sees the whole path of its cgroup in /proc/self/cgroup, unless CRIU itself was started in such a namespace.
//   - A /dev/console is a bind of a terminal whose other end nobody in the container has; both dump and restore need
//     orphan-pts-master for it: "Unable to find a master".
func PrepareMounts(dir string, mounts []snapshot.Mount, contents map[string]string, o PrepareOptions) (externals []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := sys.MountTmpfs(dir, "mode=700"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, RemoveMounts(dir))
		}
	}()
	if err := sys.MakeShared(dir); err != nil {
		return nil, err
	}
	cgroup := OpenCgroup(o.CgroupPath)
	for i, m := range distinct(mounts) {
		p := preparation{mount: m, cgroup: cgroup, target: filepath.Join(dir, strconv.Itoa(i)), content: contents[m.Key], o: o, all: mounts}
		if err := p.make(); err != nil {
			if snapshot.KindOf(err) != snapshot.KindFailed {
				return nil, err
			}
			return nil, fmt.Errorf("prepare mount %s: %w", m.Path, err)
		}
		externals = append(externals, "mnt["+m.Key+"]:"+p.target)
	}
	return externals, nil
}

// RemoveMounts takes away what PrepareMounts made.
func RemoveMounts(dir string) error {
	if err := Unmount(dir); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// preparation is one mount on its way.
type preparation struct {
	mount   snapshot.Mount
	cgroup  *Cgroup // the clone's
	target  string
	content string
	o       PrepareOptions
	all     []snapshot.Mount
}

func (p preparation) make() error {
	switch p.mount.Kind {
	case snapshot.MountTmpfs:
		return p.tmpfs()
	case snapshot.MountFile:
		return p.file()
	case snapshot.MountNull:
		return p.bind("/dev/null")
	case snapshot.MountBind:
		return p.volume()
	case snapshot.MountCgroup:
		if p.o.CgroupPath == "" {
			return fmt.Errorf("it shows the container's cgroup %q, and the clone has none", p.mount.Source)
		}
		source, err := p.cgroup.Dir(p.mount.Source)
		if err != nil {
			return err
		}
		return p.bind(source + p.mount.Sub)
	default:
		return fmt.Errorf("%s is no kind of external mount", p.mount.Kind)
	}
}

func (p preparation) tmpfs() error {
	if err := os.Mkdir(p.target, 0o700); err != nil {
		return err
	}
	options, readonly := withoutReadonly(p.mount.Options)
	if err := sys.MountTmpfs(p.target, options); err != nil {
		return err
	}
	if p.content != "" {
		if err := copyTree(p.content, p.target); err != nil {
			return err
		}
	}
	if err := p.mountPoints(); err != nil {
		return err
	}
	if readonly {
		return sys.RemountReadonly(p.target)
	}
	return nil
}

func withoutReadonly(options string) (rest string, readonly bool) {
	var kept []string
	for o := range strings.SplitSeq(options, ",") {
		if o == "ro" {
			readonly = true
		} else if o != "" {
			kept = append(kept, o)
		}
	}
	return strings.Join(kept, ","), readonly
}

// mountPoints makes in the tmpfs the places at which other mounts of the container will be, where the captured content
// lacks them.
func (p preparation) mountPoints() error {
	for _, m := range p.all {
		rel, err := filepath.Rel(p.mount.Path, m.Path)
		if err != nil || rel == "." || !filepath.IsLocal(rel) {
			continue
		}
		at := filepath.Join(p.target, rel)
		if _, err := os.Lstat(at); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if showsFile(m) {
			err = os.WriteFile(at, nil, 0o600)
		} else {
			err = os.Mkdir(at, 0o755)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// file gives the clone a copy of a file or directory. It lies on the tmpfs of all sources itself, since a bind of a
// shared mount's part needs the mount to be shared, and no mount of its own.
func (p preparation) file() error {
	content, ok := p.o.Files[p.mount.Path]
	if !ok {
		content = p.content
	}
	if content == "" {
		return os.WriteFile(p.target, nil, 0o644)
	}
	info, err := os.Lstat(content)
	if err != nil {
		return err
	}
	if info.IsDir() {
		// The content of a file may come as a directory that holds nothing but the file.
		inner := filepath.Join(content, filepath.Base(p.mount.Path))
		if in, err := os.Lstat(inner); err == nil && in.Mode().IsRegular() {
			return copyFile(inner, p.target)
		}
		if err := os.Mkdir(p.target, 0o755); err != nil {
			return err
		}
		return copyTree(content, p.target)
	}
	return copyFile(content, p.target)
}

// volume binds a path of the host.
func (p preparation) volume() error {
	if _, err := os.Stat(p.mount.Source); err != nil {
		return missingVolume(p.mount, err)
	}
	return p.bind(p.mount.Source)
}

func missingVolume(m snapshot.Mount, err error) error {
	return &snapshot.Error{Kind: snapshot.KindIncompatible, Op: "mount volume", On: m.Source + " at " + m.Path,
		Err: err, Hint: "make the path on this host; clones share it with the container the snapshot was taken of"}
}

func (p preparation) bind(source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(p.target, 0o700)
	} else {
		err = os.WriteFile(p.target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	return sys.Bind(source, p.target)
}

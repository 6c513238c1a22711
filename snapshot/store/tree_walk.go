package store

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// node is one entry of a directory tree while it is walked.
type node struct {
	name  string   // relative to the top, "." for the top itself
	dir   *os.File // the directory that holds it
	base  string   // its name there; "" for the top, which dir is itself
	stat  syscall.Stat_t
	mount bool // something is mounted here: what lies beneath it cannot be seen
}

// path names the node by way of its directory's descriptor, so that nobody can slip a symbolic link in on the way.
func (n *node) path() string { return sys.FDPath(n.dir, n.base) }

func (n *node) is(format uint32) bool { return n.stat.Mode&syscall.S_IFMT == format }

// openTree opens the top of a tree. Below /proc/PID/root, symbolic links mean what they mean to that process.
func openTree(dir string) (*os.File, error) {
	const flags = syscall.O_RDONLY | syscall.O_DIRECTORY | syscall.O_CLOEXEC
	parts := strings.SplitN(path.Clean(dir), "/", 5)
	if len(parts) < 5 || parts[0] != "" || parts[1] != "proc" || parts[3] != "root" {
		return os.OpenFile(dir, flags, 0)
	}
	root, err := os.OpenFile(strings.Join(parts[:4], "/"), flags, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return sys.OpenInRoot(root, parts[4], flags)
}

// walk calls visit for the top and for everything below it, in the order of names, a directory before its entries.
// It goes by descriptors, follows no symbolic link and enters no mount. visit says whether to go into a directory.
func walk(dir string, visit func(*node) (enter bool, err error)) error {
	f, err := openTree(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	top := &node{name: ".", dir: f}
	if err := syscall.Fstat(int(f.Fd()), &top.stat); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	if enter, err := visit(top); err != nil || !enter {
		return err
	}
	return walkDir(f, "", visit)
}

func walkDir(dir *os.File, prefix string, visit func(*node) (bool, error)) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, base := range names {
		n := &node{name: prefix + base, dir: dir, base: base}
		if err := syscall.Lstat(n.path(), &n.stat); err != nil {
			return fmt.Errorf("stat %s: %w", n.name, err)
		}
		if n.mount, err = sys.MountRoot(n.path()); err != nil {
			return err
		}
		enter, err := visit(n)
		if err != nil {
			return err
		}
		if !enter || n.mount || !n.is(syscall.S_IFDIR) {
			continue
		}
		if err := enterDir(n, visit); err != nil {
			return err
		}
	}
	return nil
}

func enterDir(n *node, visit func(*node) (bool, error)) error {
	f, err := os.OpenFile(n.path(), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", n.name, err)
	}
	defer f.Close()
	return walkDir(f, n.name+"/", visit)
}

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// tree is a directory with all that is in it, read once to be made many times. It has in memory what makes a file system
// of a few kilobytes; the content of larger files stays where it was read.
type tree []node

// node is one name of a tree.
type node struct {
	name         string // relative, "." for the tree's own top; parents come before what they hold
	mode         uint32 // st_mode
	uid, gid     uint32
	rdev         uint64
	atime, mtime syscall.Timespec
	xattrs       map[string][]byte
	link         string // another name of the same file
	target       string // of a symbolic link
	content      []byte
	source       string // a file with the content, where it is large
	bare         bool   // a place for a mount: owner and times are whoever's and whenever it is made
}

// inMemory is the size up to which the content of a file is kept.
const inMemory = 64 << 10

// readTree reads the directory src.
func readTree(src string) (tree, error) {
	var t tree
	linked := make(map[uint64]string) // inode with several names -> first name
	err := filepath.WalkDir(src, func(from string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(src, from)
		if err != nil {
			return err
		}
		n, err := readNode(from)
		if err != nil {
			return err
		}
		n.name = name
		if info, err := e.Info(); err != nil {
			return err
		} else if st, ok := info.Sys().(*syscall.Stat_t); ok && !e.IsDir() && st.Nlink > 1 {
			first, ok := linked[st.Ino]
			if ok {
				n.link = first
			} else {
				linked[st.Ino] = name
			}
		}
		t = append(t, n)
		return nil
	})
	return t, err
}

// readNode reads what is at a path, all but its name.
func readNode(from string) (node, error) {
	info, err := os.Lstat(from)
	if err != nil {
		return node{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return node{}, fmt.Errorf("stat %s: no owner", from)
	}
	n := node{mode: st.Mode, uid: st.Uid, gid: st.Gid, rdev: st.Rdev, atime: st.Atim, mtime: st.Mtim}
	if n.xattrs, err = sys.Xattrs(from); err != nil {
		return node{}, err
	}
	switch {
	case info.Mode().IsRegular() && info.Size() > inMemory:
		n.source = from
	case info.Mode().IsRegular():
		n.content, err = os.ReadFile(from)
	case info.Mode()&fs.ModeSymlink != 0:
		n.target, err = os.Readlink(from)
	}
	return n, err
}

// has says whether there is anything at name.
func (t tree) has(name string) bool {
	return slices.ContainsFunc(t, func(n node) bool { return n.name == name })
}

// place adds an empty file or directory at name, and the directories above it, where there is nothing.
func (t tree) place(name string, file bool) tree {
	if name == "." || t.has(name) {
		return t
	}
	t = t.place(path.Dir(name), false)
	if file {
		return append(t, node{name: name, mode: syscall.S_IFREG | 0o600, bare: true})
	}
	return append(t, node{name: name, mode: syscall.S_IFDIR | 0o755, bare: true})
}

// make makes the tree in an empty directory, with its owners, modes, times and extended attributes.
func (t tree) make(dir sys.Dir) error {
	handsDown := slices.ContainsFunc(t, func(n node) bool { return n.isDir() && n.mode&syscall.S_ISGID != 0 })
	for _, n := range t {
		// What root makes is root's own unless a directory hands down its group.
		if err := n.make(dir, n.uid != 0 || n.gid != 0 || n.name == "." || handsDown); err != nil {
			return err
		}
	}
	for _, n := range slices.Backward(t) { // what is made in a directory changes its time
		if n.isDir() && !n.bare {
			if err := dir.Chtimes(n.name, n.atime, n.mtime); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

func (n node) make(dir sys.Dir, chown bool) error {
	if n.link != "" {
		return dir.Link(n.link, n.name)
	}
	if err := n.create(dir); err != nil {
		return err
	}
	if n.bare {
		return nil
	}
	if chown {
		if err := dir.Chown(n.name, n.uid, n.gid); err != nil {
			return err
		}
	}
	if n.mode&syscall.S_IFMT != syscall.S_IFLNK { // after chown, which clears set-id bits; the umask may have cleared others
		if err := dir.Chmod(n.name, n.mode&^syscall.S_IFMT); err != nil {
			return err
		}
	}
	for attr, value := range n.xattrs {
		if err := dir.SetXattr(n.name, attr, value); err != nil {
			return err
		}
	}
	if n.isDir() {
		return nil // later
	}
	return dir.Chtimes(n.name, n.atime, n.mtime)
}

func (n node) create(dir sys.Dir) error {
	perm := n.mode &^ syscall.S_IFMT
	switch n.mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		if n.name == "." {
			return nil
		}
		return dir.Mkdir(n.name, perm)
	case syscall.S_IFLNK:
		return dir.Symlink(n.target, n.name)
	case syscall.S_IFREG:
		if n.source == "" {
			return dir.WriteFile(n.name, n.content, perm)
		}
		return copyInto(dir, n.name, n.source)
	default:
		return dir.Mknod(n.name, n.mode, n.rdev)
	}
}

// copyInto makes a file with the content of source.
func copyInto(dir sys.Dir, name, source string) error {
	r, err := os.Open(source)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := dir.Create(name, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

package store

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// OCI's marks in a layer: a file of this name deletes the file of the rest of the name, or everything that lower
// layers have in its directory.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

const paxXattr = "SCHILY.xattr."

// overlayPrefixes are the namespaces in which overlayfs keeps its own marks: the second with option userxattr.
var overlayPrefixes = [...]string{"trusted.overlay.", "user.overlay."}

// WriteLayer writes the upper directory of an overlay as an OCI layer, a plain tar: deletions become whiteouts,
// directories that hide what is below them become opaque. Owners are numbers, times are kept, entries come in the
// order of their names, so that equal directories give equal layers. Sockets are left out: they mean nothing without
// their process. Of a file with holes only the rest is read and written. The directory must not change meanwhile. An upper directory that only makes sense together with the
// layers beneath it (overlayfs options redirect_dir and metacopy) is refused with KindUncloneable.
func WriteLayer(ctx context.Context, w io.Writer, upper string) error {
	return failure("write layer", upper, writeTar(ctx, w, upper, tarFormat{overlay: true}))
}

// WriteTree writes a plain directory as a tar: what is in a tmpfs, or the files of a base. Whatever is mounted below
// dir is not entered; an empty directory or file stands in its place. No symbolic link is followed, and in a dir of
// the form /proc/PID/root/PATH those of PATH mean what they mean to that process.
func WriteTree(ctx context.Context, w io.Writer, dir string) error {
	return failure("write tree", dir, writeTar(ctx, w, dir, tarFormat{}))
}

// WriteFile writes a single file as a tar that holds nothing else, under the file's own name: the content of a mount
// that is a file.
func WriteFile(ctx context.Context, w io.Writer, file string) error {
	return failure("write file", file, writeFileTar(newTarOut(ctx, w), file))
}

func writeFileTar(t *tarOut, file string) error {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname = path.Base(file), "", ""
	if h.Typeflag != tar.TypeReg {
		return errors.Join(t.WriteHeader(h), t.Close())
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	return errors.Join(t.regular(h, f, st.Blocks), t.Close())
}

// tarOut is a tar that is being written, until ctx ends.
type tarOut struct {
	ctx         context.Context
	w           io.Writer
	*tar.Writer // to w
}

func newTarOut(ctx context.Context, w io.Writer) *tarOut {
	return &tarOut{ctx: ctx, w: w, Writer: tar.NewWriter(w)}
}

// tarFormat says what a tree is, and what is wanted of it.
type tarFormat struct {
	overlay  bool // an upper or lower directory of overlayfs
	packed   bool // a plain directory that becomes a layer
	timeless bool // to be compared and not unpacked: without times, and with digests in place of content
}

func writeTar(ctx context.Context, w io.Writer, dir string, format tarFormat) error {
	t := &treeWriter{tarOut: newTarOut(ctx, w), tarFormat: format, links: make(map[inode]string)}
	if err := walk(dir, t.visit); err != nil {
		return err
	}
	return t.Close()
}

type inode struct{ dev, ino uint64 }

// treeWriter turns nodes into the entries of a tar.
type treeWriter struct {
	*tarOut
	tarFormat
	links map[inode]string // the first name of a file with several
}

func (t *treeWriter) visit(n *node) (bool, error) {
	if err := t.ctx.Err(); err != nil {
		return false, err
	}
	attrs, marks, err := readXattrs(n.path())
	if err != nil {
		return false, err
	}
	if t.overlay {
		if done, err := t.mark(n, marks); done || err != nil {
			return false, err
		}
	}
	if (t.overlay || t.packed) && strings.HasPrefix(path.Base(n.name), whiteoutPrefix) {
		return false, uncloneable(n.name, "rename it", "a name that begins with %s means a deletion in OCI layers", whiteoutPrefix)
	}
	if n.is(syscall.S_IFSOCK) {
		return false, nil
	}
	h, err := header(n, attrs)
	if err != nil {
		return false, err
	}
	if t.overlay || t.packed {
		if err := (unpacking{overlay: true, at: "/"}).check(h); err != nil {
			return false, uncloneable(n.name, "move it to /dev or delete it", "a layer cannot hold it: %w", err)
		}
	}
	if t.timeless {
		h.ModTime = time.Unix(0, 0)
	}
	if err := t.write(n, h); err != nil {
		return false, fmt.Errorf("%s: %w", n.name, err)
	}
	if t.overlay && marks["opaque"] == "y" && n.is(syscall.S_IFDIR) {
		return true, t.WriteHeader(markHeader(path.Join(n.name, whiteoutOpaque)))
	}
	return true, nil
}

// mark handles what overlayfs notes about a node. It returns true when that is all there is to the node.
func (t *treeWriter) mark(n *node, marks map[string]string) (bool, error) {
	for _, m := range [...]string{"redirect", "metacopy"} {
		if _, ok := marks[m]; ok {
			return false, uncloneable(n.name, "its overlay is mounted with redirect_dir or metacopy; mount it with both off",
				"overlayfs keeps part of it in a lower layer (%s)", m)
		}
	}
	_, byXattr := marks["whiteout"]
	if n.is(syscall.S_IFCHR) && n.stat.Rdev == 0 || byXattr && n.is(syscall.S_IFREG) && n.stat.Size == 0 {
		dir, base := path.Split(n.name)
		return true, t.WriteHeader(markHeader(dir + whiteoutPrefix + base))
	}
	return false, nil
}

func uncloneable(name, hint, format string, args ...any) error {
	return &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "write layer", On: "/" + name,
		Err: fmt.Errorf(format, args...), Hint: hint}
}

func markHeader(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// header describes a node as tar does.
func header(n *node, attrs map[string]string) (*tar.Header, error) {
	h := &tar.Header{Name: n.name, Mode: int64(n.stat.Mode & 0o7777), Uid: int(n.stat.Uid), Gid: int(n.stat.Gid),
		ModTime: time.Unix(n.stat.Mtim.Unix()), PAXRecords: attrs, Format: tar.FormatPAX}
	switch n.stat.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, n.stat.Size
	case syscall.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case syscall.S_IFLNK:
		target, err := os.Readlink(n.path())
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case syscall.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case syscall.S_IFCHR, syscall.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if n.is(syscall.S_IFBLK) {
			h.Typeflag = tar.TypeBlock
		}
		major, minor := sys.DeviceNumbers(n.stat.Rdev)
		h.Devmajor, h.Devminor = int64(major), int64(minor)
	default:
		return nil, fmt.Errorf("%s has an unknown type, mode %o", n.name, n.stat.Mode)
	}
	return h, nil
}

func (t *treeWriter) write(n *node, h *tar.Header) error {
	if n.mount && h.Typeflag != tar.TypeDir {
		h.Typeflag, h.Size, h.Linkname, h.Devmajor, h.Devminor = tar.TypeReg, 0, "", 0, 0
	} else if h.Typeflag != tar.TypeDir && n.stat.Nlink > 1 {
		key := inode{n.stat.Dev, n.stat.Ino}
		if first, ok := t.links[key]; ok {
			// The attributes stay: unpacking gives the file its owner once more, which takes its capabilities away.
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.links[key] = n.name
		}
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return t.WriteHeader(h)
	}
	f, err := os.OpenFile(n.path(), syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if !t.timeless {
		return t.regular(h, f, n.stat.Blocks)
	}
	sum, err := sumOf(t.ctx, f, h.Size)
	if err != nil {
		return err
	}
	h.Size, h.PAXRecords = 0, maps.Clone(h.PAXRecords)
	if h.PAXRecords == nil {
		h.PAXRecords = make(map[string]string)
	}
	h.PAXRecords["SNAPD.content"] = sum
	return t.WriteHeader(h)
}

// readXattrs returns a node's extended attributes as records of a tar, and those that overlayfs made, by short name.
func readXattrs(path string) (attrs, marks map[string]string, err error) {
	all, err := sys.Xattrs(path)
	if err != nil || len(all) == 0 {
		return nil, nil, err
	}
	attrs, marks = make(map[string]string), make(map[string]string)
next:
	for name, value := range all {
		for _, p := range overlayPrefixes {
			if short, ok := strings.CutPrefix(name, p); ok {
				marks[short] = string(value)
				continue next
			}
		}
		attrs[paxXattr+name] = string(value)
	}
	return attrs, marks, nil
}

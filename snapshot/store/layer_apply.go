package store

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// applyLayer unpacks an OCI layer (plain, gzip or zstd) into the empty directory dir so that it can be a lower
// directory of an overlay: whiteouts become character devices 0:0, opaque marks the attribute trusted.overlay.opaque.
// Nothing outside dir is touched whatever the layer says: entries that try are refused with KindCorrupt, and so is
// what does not belong in a layer (device nodes outside dev/, names with ".."). An absolute name means the layer's top.
func applyLayer(ctx context.Context, dir string, r io.Reader) error {
	return applyTar(ctx, dir, r, unpacking{overlay: true, at: "/"})
}

// unpacking says what an archive is.
type unpacking struct {
	overlay bool   // whiteouts mean deletions
	at      string // where in the container the top of the archive is
}

// applyTar unpacks into dir, which must exist and be empty. Holes stay holes.
func applyTar(ctx context.Context, dir string, r io.Reader, u unpacking) error {
	plain, err := decompress(r)
	if err != nil {
		return unpackError(dir, "", err)
	}
	defer plain.Close()
	// The filter sees each entry before anything is done about it.
	var entry string
	var top *tar.Header
	opts := []archive.ApplyOpt{archive.WithFilter(func(h *tar.Header) (bool, error) {
		entry = h.Name
		if h.Typeflag == tar.TypeXGlobalHeader {
			return false, nil
		}
		if err := u.check(h); err != nil {
			return false, err
		}
		if path.Clean("/"+h.Name) == "/" {
			top = h
			return false, nil
		}
		return true, nil
	})}
	if u.overlay {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	} else {
		opts = append(opts, archive.WithConvertWhiteout(func(*tar.Header, string) (bool, error) { return true, nil }))
	}
	root, err := os.Open(dir)
	if err != nil {
		return failure("unpack", dir, err)
	}
	defer root.Close()
	if _, err := archive.Apply(ctx, dir, newSparing(ctx, root, plain), opts...); err != nil {
		return unpackError(dir, entry, err)
	}
	// The stream is read to its end, so that whoever computes its digest sees all of it.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return unpackError(dir, entry, err)
	}
	return failure("unpack", dir, applyTop(dir, top))
}

// applyTop gives the directory itself what the archive says of it, or what a root directory usually has.
func applyTop(dir string, h *tar.Header) error {
	if h == nil {
		return os.Chmod(dir, 0o755)
	}
	if err := os.Lchown(dir, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := os.Chmod(dir, h.FileInfo().Mode()); err != nil {
		return err
	}
	return os.Chtimes(dir, h.ModTime, h.ModTime)
}

// check refuses an entry that a sound archive does not have.
func (u unpacking) check(h *tar.Header) error {
	if err := u.checkName(h.Name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeFifo:
	case tar.TypeLink:
		if err := u.checkName(h.Linkname); err != nil {
			return errors.New("its hard link leads out of the archive")
		}
	case tar.TypeChar, tar.TypeBlock:
		if !u.deviceAllowed(h) {
			return errors.New("a device node outside /dev")
		}
	default:
		return errors.New("an entry of an unknown type")
	}
	if h.Typeflag == tar.TypeDir && u.overlay && strings.HasPrefix(path.Base(h.Name), whiteoutPrefix) {
		return errors.New("a whiteout that is a directory")
	}
	for name := range h.PAXRecords {
		// Only this program may say what overlayfs is to believe, and no archive may write below trusted.
		attr, ok := strings.CutPrefix(name, paxXattr)
		if ok && (strings.HasPrefix(attr, "trusted.") || strings.HasPrefix(attr, "user.overlay.")) {
			delete(h.PAXRecords, name)
		}
	}
	return nil
}

// checkName lets layers begin names with a slash: some builders of images write them so, and mean the layer's top.
func (u unpacking) checkName(name string) error {
	if u.overlay && strings.HasPrefix(name, "/") {
		name = "." + name
	}
	return tarball.CheckName(name)
}

// deviceAllowed lets device nodes exist in /dev, where container engines make them, and elsewhere those that give
// nobody anything: null, zero, full, random, urandom, tty, and overlayfs's own whiteout. A container's device rules
// decide what it may open; this is about archives that hide a disk where nobody looks.
func (u unpacking) deviceAllowed(h *tar.Header) bool {
	if strings.HasPrefix(path.Join(u.at, h.Name), "/dev/") {
		return true
	}
	if h.Typeflag != tar.TypeChar {
		return false
	}
	switch [2]int64{h.Devmajor, h.Devminor} {
	case [2]int64{0, 0}, [2]int64{1, 3}, [2]int64{1, 5}, [2]int64{1, 7}, [2]int64{1, 8}, [2]int64{1, 9}, [2]int64{5, 0}:
		return true
	}
	return false
}

// hostTrouble says whether an error is about this host, or the caller, and not about what is being read.
func hostTrouble(err error) bool {
	host := [...]error{context.Canceled, context.DeadlineExceeded, syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EACCES,
		syscall.EPERM, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM}
	return slices.ContainsFunc(host[:], func(e error) bool { return errors.Is(err, e) })
}

// unpackError tells damage in the archive from trouble on this host.
func unpackError(dir, entry string, err error) error {
	if hostTrouble(err) {
		return failure("unpack", dir, err)
	}
	if entry == "" {
		entry = "the archive's beginning"
	}
	return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "unpack", On: entry, Err: err,
		Hint: "the archive is damaged, or was made to do harm"}
}

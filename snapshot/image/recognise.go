package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// load finds out what was given and loads it.
func (l *loader) load(ctx context.Context) (*Image, error) {
	if l.ref == "" || strings.ContainsRune(l.ref, 0) {
		return nil, notAnImage("the reference is empty or holds a zero byte")
	}
	if name, ok := strings.CutPrefix(l.ref, "docker://"); ok {
		return l.loadReference(ctx, name)
	}
	switch kind, rest, _ := strings.Cut(l.ref, ":"); kind {
	case "oci", "oci-archive", "docker-archive", "tar":
		f, tag, err := openTagged(rest)
		if err != nil {
			return nil, unopened(err)
		}
		defer f.Close()
		return l.loadOpen(ctx, f, kind, tag)
	}
	return l.loadAny(ctx)
}

// loadAny looks at the path first and takes what is no path for a registry reference. A name in the working directory
// that is no image does not hide a registry's image of the same name, unless it is written as a path.
func (l *loader) loadAny(ctx context.Context) (*Image, error) {
	f, tag, err := openTagged(l.ref)
	if err == nil {
		defer f.Close()
		img, err := l.loadOpen(ctx, f, "", tag)
		if _, other := errors.AsType[*otherThing](err); !other || l.meansPath() {
			return img, err
		}
		if _, bad := parseReference(l.ref); bad != nil {
			return nil, err
		}
	} else if !missing(err) || l.meansPath() {
		return nil, unopened(err)
	}
	return l.loadReference(ctx, l.ref)
}

var archiveName = regexp.MustCompile(`\.(tar|tgz|txz|tar\.(gz|zst|xz))$`)

// meansPath says whether ref can only be meant as a path.
func (l *loader) meansPath() bool {
	return strings.ContainsRune("/.~", rune(l.ref[0])) || archiveName.MatchString(l.ref)
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG)
}

func unopened(err error) error {
	if missing(err) {
		return faultf(snapshot.KindNotFound, forms, "%w", err)
	}
	return err
}

func (l *loader) loadReference(ctx context.Context, name string) (*Image, error) {
	ref, err := parseReference(name)
	if err != nil {
		return nil, notAnImage("it is no file or directory, and no registry reference: %w", err)
	}
	return l.loadRemote(ctx, ref)
}

// openTagged opens path or, where there is nothing, what stands before one of its colons, the last one first; the tag
// is what stands behind that colon.
func openTagged(path string) (f *os.File, tag string, err error) {
	f, err = openAny(path)
	for at := len(path); err != nil && missing(err); {
		if at = strings.LastIndexByte(path[:at], ':'); at <= 0 {
			return nil, "", err
		}
		shorter, failed := openAny(path[:at])
		if failed == nil {
			return shorter, path[at+1:], nil
		}
		if !missing(failed) {
			return nil, "", failed
		}
	}
	return f, "", err
}

// openAny opens a file or directory, and does not wait for a writer where it is a named pipe.
func openAny(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// loadOpen loads the file or directory f as kind, which is a prefix that the user wrote or "".
func (l *loader) loadOpen(ctx context.Context, f *os.File, kind, tag string) (*Image, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir() && (kind == "" || kind == "oci"):
		return l.loadDirectory(ctx, f.Name(), tag)
	case info.Mode().IsRegular() && kind != "oci":
		return l.loadFile(ctx, f, kind, tag)
	case kind == "oci":
		return nil, notAnImage("%s is not a directory; for an OCI layout in a tar write oci-archive:", f.Name())
	default:
		return nil, notAnImage("%w", &otherThing{fmt.Errorf("%s is not a regular file", f.Name())})
	}
}

func (l *loader) loadDirectory(ctx context.Context, dir, tag string) (*Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if _, err := root.Stat(v1.ImageLayoutFile); err != nil {
		what := fmt.Errorf("the directory %s is not an OCI image layout: it has no %s", dir, v1.ImageLayoutFile)
		return nil, &fault{snapshot.KindInvalid, directoryHint(root), &otherThing{what}}
	}
	return l.loadLayout(ctx, directory{root}, tag)
}

// directoryHint tells what else a directory that somebody took for an image might be.
func directoryHint(root *os.Root) string {
	if _, err := root.Stat("config.json"); err == nil {
		return "for an OCI bundle use --bundle " + root.Name()
	}
	if _, err := root.Stat("etc"); err == nil {
		return "for the directory of a root file system use --rootfs " + root.Name()
	}
	return forms
}

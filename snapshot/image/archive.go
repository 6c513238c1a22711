package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// archive is a tar that holds an image in several files. It is a tree: its files are read in place.
type archive struct {
	of      *os.File
	entries map[string]entry
}

type entry struct {
	offset, size int64
	link         string // another entry with the content; else empty
}

func (a *archive) file(name string) (io.ReadCloser, int64, error) {
	e, ok := a.entries[name]
	for hops := 0; ok && e.link != ""; hops++ {
		if hops > 8 {
			return nil, 0, fmt.Errorf("%s is a link in a circle", name)
		}
		e, ok = a.entries[e.link]
	}
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(a.of, e.offset, e.size)), e.size, nil
}

// readIndex notes where in the tar f its files are. The tar must not be compressed.
func readIndex(ctx context.Context, f *os.File) (*archive, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &archive{of: f, entries: make(map[string]entry)}
	t := tar.NewReader(f) // seeks over content
	for {
		h, err := t.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, corrupt("archive", err)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := a.add(h); err != nil {
			return nil, err
		}
	}
}

func (a *archive) add(h *tar.Header) error {
	name := path.Clean(h.Name)
	if !harmless(h.Name) {
		return faultf(snapshot.KindInvalid, forms, "the archive holds the name %q, which leads out of it", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		at, err := a.of.Seek(0, io.SeekCurrent) // tar reads whole headers and nothing ahead
		if err != nil {
			return err
		}
		a.entries[name] = entry{offset: at, size: h.Size}
	case tar.TypeSymlink: // docker save once wrote layers that occur twice so
		a.entries[name] = entry{link: path.Join(path.Dir(name), h.Linkname)}
	case tar.TypeLink:
		a.entries[name] = entry{link: path.Clean(h.Linkname)}
	}
	return nil
}

// shape is what a file turned out to be.
type shape int

const (
	shapeNone shape = iota
	shapeRootfs
	shapeImage // an OCI or docker archive
)

// The first element of names that image archives have and root file systems do not.
var imageEntry = regexp.MustCompile(`^(blobs|oci-layout|repositories|[0-9a-f]{64}|[^/]*\.json|[^/]*\.tar)$`)

// The first element of names that root file systems have and image archives do not.
var rootEntry = regexp.MustCompile(`^(bin|dev|etc|home|lib|opt|proc|root|run|sbin|srv|sys|tmp|usr|var)$`)

// marks is what the names of an archive's entries tell.
type marks struct {
	names         int
	layout, index bool            // oci-layout, index.json
	manifest      bool            // manifest.json, whatever is in it
	docker        bool            // manifest.json, and it is docker's
	other         bool            // a name that no image archive has
	roots         map[string]bool // those that rootEntry means
}

// shape says what the archive is. Order and odd directories do not matter, and a root file system may have a file
// manifest.json.
func (m *marks) shape() shape {
	switch {
	case m.layout && m.index, m.docker, (m.layout || m.manifest) && !m.other:
		return shapeImage
	default:
		return shapeRootfs
	}
}

// settled says whether what is yet to come cannot change the shape: two directories of a root file system are no
// coincidence. It spares decompressing a large one twice.
func (m *marks) settled() bool { return m.layout && m.index || m.docker || len(m.roots) > 1 }

func (m *marks) note(name string, r io.Reader) error {
	m.names++
	first, _, _ := strings.Cut(name, "/")
	m.other = m.other || !imageEntry.MatchString(first)
	switch {
	case name == v1.ImageLayoutFile:
		m.layout = true
	case name == v1.ImageIndexFile:
		m.index = true
	case name == dockerManifest:
		raw, err := io.ReadAll(io.LimitReader(r, mostMetadata))
		if err != nil {
			return corrupt(name, err)
		}
		m.manifest = true
		var images []dockerImage
		m.docker = json.Unmarshal(raw, &images) == nil && len(images) > 0 && images[0].Config != ""
	case rootEntry.MatchString(first):
		m.roots[first] = true
	}
	return nil
}

// looksLike reads entries of a tar until it is clear what it is, or to the end.
func looksLike(ctx context.Context, t *tar.Reader) (shape, error) {
	m := &marks{roots: make(map[string]bool)}
	for !m.settled() {
		h, err := t.Next()
		switch {
		case err == io.EOF && m.names == 0:
			return shapeNone, errors.New("the archive is empty")
		case err == io.EOF:
			return m.shape(), nil
		case ctx.Err() != nil:
			return shapeNone, ctx.Err()
		case err != nil && m.names == 0:
			return shapeNone, err
		case err != nil:
			return shapeNone, corrupt("archive", err)
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		if name == "." || name == "" {
			continue
		}
		if err := m.note(name, t); err != nil {
			return shapeNone, err
		}
	}
	return m.shape(), nil
}

// loadFile loads whatever the file f is. want restricts that: "oci-archive", "docker-archive", "tar", or "" for any.
func (l *loader) loadFile(ctx context.Context, f *os.File, want, tag string) (*Image, error) {
	buffered := bufio.NewReader(f)
	format, err := tarball.Sniff(buffered)
	if err != nil {
		return nil, err
	}
	if want == "tar" {
		return l.loadRootfs(ctx, f)
	}
	if format == tarball.Plain {
		return l.loadPlain(ctx, f, want, tag)
	}
	body, err := open(ctx, format, buffered)
	if err != nil {
		return nil, named("archive", err)
	}
	defer body.Close()
	found, err := looksLike(ctx, tar.NewReader(body))
	if err != nil {
		return nil, orNotAnImage(err)
	}
	if found == shapeRootfs && want == "" && tag == "" {
		return l.loadRootfs(ctx, f)
	}
	spooled, err := spool(ctx, f, format)
	if err != nil {
		return nil, err
	}
	defer spooled.Close()
	return l.loadPlain(ctx, spooled, want, tag)
}

func (l *loader) loadPlain(ctx context.Context, f *os.File, want, tag string) (*Image, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	found, err := looksLike(ctx, tar.NewReader(f))
	if err != nil {
		return nil, orNotAnImage(err)
	}
	if found == shapeRootfs && want == "" && tag == "" {
		return l.loadRootfs(ctx, f)
	}
	a, err := readIndex(ctx, f)
	if err != nil {
		return nil, err
	}
	_, isOCI := a.entries[v1.ImageLayoutFile]
	_, isDocker := a.entries[dockerManifest]
	switch {
	case isOCI && want != "docker-archive":
		return l.loadLayout(ctx, a, tag)
	case isDocker && want != "oci-archive":
		return l.loadDocker(ctx, a, tag)
	case want != "":
		return nil, notAnImage("the file is not an %s", want)
	default:
		return nil, notAnImage("the archive holds neither oci-layout nor manifest.json, so it has no tag %q", tag)
	}
}

func orNotAnImage(err error) error {
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	return notAnImage("%w", &otherThing{fmt.Errorf("the file is not a tar: %w", err)})
}

// loadRootfs takes a tar as the one layer of an image without configuration.
func (l *loader) loadRootfs(ctx context.Context, f *os.File) (*Image, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	added, err := l.addLayer(ctx, layer{name: "archive"}, f)
	if err != nil {
		return nil, err
	}
	return &Image{Layers: []string{added}}, nil
}

// spool writes the plain bytes of a compressed archive to a file without a name, so that they can be read in any order.
func spool(ctx context.Context, f *os.File, format tarball.Compression) (*os.File, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	body, err := open(ctx, format, f)
	if err != nil {
		return nil, named("archive", err)
	}
	defer body.Close()
	out, err := os.CreateTemp("", "image-*.tar")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(out.Name()); err != nil {
		out.Close()
		return nil, err
	}
	if _, err := io.Copy(out, &cancellable{ctx, body}); err != nil {
		out.Close()
		if pe, ok := errors.AsType[*fs.PathError](err); ok { // of the file we write
			return nil, pe
		}
		return nil, corrupt("archive", err)
	}
	return out, nil
}

// cancellable makes a copy of something local stop when the context ends.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, c.ctx.Err()
	}
	return c.r.Read(p)
}

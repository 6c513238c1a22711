package store

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// AddImages stores a directory of CRIU images: one tar with everything but the pages, and each pages file as a blob of
// its own, which is moved. The directory is of no use afterwards.
func (t *Txn) AddImages(dir string) ([]snapshot.Layer, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, failure("store images", dir, err)
	}
	var small, pages []string
	for _, e := range entries {
		switch {
		case !e.Type().IsRegular():
			return nil, invalid("store images", filepath.Join(dir, e.Name()),
				"incremental dumps (a link named parent) are not supported", "it is not a regular file")
		case isPages(e.Name()):
			pages = append(pages, e.Name())
		default:
			small = append(small, e.Name())
		}
	}
	images, err := t.addStream(func(w io.Writer) error { return writeImages(w, dir, small) },
		snapshot.MediaImages, snapshot.RoleImages, "")
	if err != nil {
		return nil, err
	}
	layers := []snapshot.Layer{images}
	for _, name := range pages {
		l, err := t.AddFile(filepath.Join(dir, name), snapshot.MediaPages, snapshot.RolePages, name)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// isPages says whether a file of CRIU's holds raw memory. It is stored as it is, and linked into every unpacked copy.
func isPages(name string) bool {
	return strings.HasPrefix(name, "pages-") && strings.HasSuffix(name, ".img")
}

// addStream stores what write writes.
func (t *Txn) addStream(write func(io.Writer) error, mediaType, role, name string) (snapshot.Layer, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	l, err := t.AddReader(r, mediaType, role, name)
	r.CloseWithError(err)
	return l, err
}

// writeImages writes the files as a tar that depends on nothing but their names and content.
func writeImages(w io.Writer, dir string, names []string) error {
	tw := tar.NewWriter(w)
	for _, name := range names {
		if err := tarFile(tw, filepath.Join(dir, name), name); err != nil {
			return err
		}
	}
	return tw.Close()
}

// tarFile adds a file to a tar, as name, readable by its owner alone.
func tarFile(tw *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(fileHeader(name, st.Size())); err != nil {
		return err
	}
	_, err = io.CopyN(tw, f, st.Size())
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func fileHeader(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// eachImage calls visit for every file of an images tar. Anything but a regular file with a plain name is damage.
func eachImage(r io.Reader, visit func(name string, size int64, content io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return corrupt("read images", "tar", "%w", err)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || strings.Contains(h.Name, "/") || h.Name == "." || isPages(h.Name) {
			return corrupt("read images", fmt.Sprintf("%q", h.Name), "an entry that does not belong among CRIU's images")
		}
		if err := visit(h.Name, h.Size, tr); err != nil {
			return err
		}
	}
}

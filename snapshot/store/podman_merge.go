package store

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
)

// merge makes an OCI layer of a tar of changed files and a list of deleted ones. Such a tar need not list the
// directories on the way to a file; in a layer they would then appear with attributes out of thin air and hide those
// of the image, so they are added with what the image has.
type merge struct {
	lower []string
	root  uint32 // mode of the root directory, which the tar does not list; 0: that of the image
	tar   *tar.Writer
	seen  map[string]bool // directories that the layer has
}

func (m *merge) write(w io.Writer, diff string, deleted []string) error {
	m.tar = tar.NewWriter(w)
	if m.root != 0 {
		m.seen["."] = true
		h := &tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: int64(m.root & 0o7777), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := m.tar.WriteHeader(h); err != nil {
			return err
		}
	}
	if diff != "" {
		if err := eachEntry(diff, m.add); err != nil {
			return err
		}
	}
	for _, d := range deleted {
		name := path.Clean("/" + d)[1:]
		if err := tarball.CheckName(name); err != nil {
			return fmt.Errorf("deleted file %q: %w", d, err)
		}
		if err := m.parents(name); err != nil {
			return err
		}
		dir, base := path.Split(name)
		if err := m.tar.WriteHeader(markHeader(dir + whiteoutPrefix + base)); err != nil {
			return err
		}
	}
	return m.tar.Close()
}

func (m *merge) add(h *tar.Header, name string, content io.Reader) error {
	if err := tarball.CheckName(h.Name); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	if name == "." && m.seen["."] {
		return nil
	}
	if err := m.parents(name); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		m.seen[name] = true
	}
	if err := m.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(m.tar, content)
	return err
}

// parents adds the directories on the way to name that are not there yet.
func (m *merge) parents(name string) error {
	dir := path.Dir(name)
	if dir == "." || m.seen[dir] {
		return nil
	}
	if err := m.parents(dir); err != nil {
		return err
	}
	m.seen[dir] = true
	h := &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	for _, l := range m.lower {
		if st := dirIn(l, dir); st != nil {
			h.Mode, h.Uid, h.Gid = int64(st.Mode&0o7777), int(st.Uid), int(st.Gid)
			h.ModTime = time.Unix(st.Mtim.Unix())
			break
		}
	}
	return m.tar.WriteHeader(h)
}

func dirIn(lower, name string) *syscall.Stat_t {
	root, err := os.OpenRoot(lower)
	if err != nil {
		return nil
	}
	defer root.Close()
	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() {
		return nil
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	return st
}

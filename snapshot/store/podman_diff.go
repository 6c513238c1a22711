package store

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// eachEntry calls visit for every entry of a layer, with its clean name.
func eachEntry(file string, visit func(h *tar.Header, name string, content io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return err
	}
	defer r.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := visit(h, path.Clean(h.Name), tr); err != nil {
			return err
		}
	}
}

// deletions returns what a layer deletes, as absolute paths. What an opaque directory hides is found in lower.
func deletions(file string, lower []string) ([]string, error) {
	var deleted, opaque []string
	have := make(map[string]bool)
	err := eachEntry(file, func(_ *tar.Header, name string, _ io.Reader) error {
		dir, base := path.Split(name)
		switch {
		case base == whiteoutOpaque:
			opaque = append(opaque, path.Clean(dir))
		case strings.HasPrefix(base, whiteoutPrefix):
			deleted = append(deleted, "/"+dir+base[len(whiteoutPrefix):])
		default:
			have[name] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, dir := range opaque {
		for _, l := range lower {
			for _, base := range namesIn(l, dir) {
				if p := path.Join(dir, base); !have[p] {
					deleted = append(deleted, "/"+p)
				}
			}
		}
	}
	slices.Sort(deleted)
	return slices.Compact(deleted), nil
}

// namesIn lists a directory of a lower directory; where there is none, nothing.
func namesIn(lower, dir string) []string {
	root, err := os.OpenRoot(lower)
	if err != nil {
		return nil
	}
	defer root.Close()
	f, err := root.Open(filepath.FromSlash(dir))
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	return names
}

// plainDiff writes a layer without its whiteouts.
func plainDiff(w io.Writer, file string) error {
	tw := tar.NewWriter(w)
	err := eachEntry(file, func(h *tar.Header, name string, content io.Reader) error {
		if strings.HasPrefix(path.Base(name), whiteoutPrefix) || name == "." {
			return nil
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, content)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

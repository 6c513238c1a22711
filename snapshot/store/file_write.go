package store

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile writes a single file as a tar that holds nothing else, under the file's own name: the content of a mount
// that is a file.
func WriteFile(w io.Writer, path string) error {
	return failure("write file", path, writeFileTar(w, path))
}

func writeFileTar(w io.Writer, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(st, "")
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname = filepath.Base(path), "", ""
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(tw, io.LimitReader(f, h.Size)); err != nil {
		return err
	}
	return tw.Close()
}

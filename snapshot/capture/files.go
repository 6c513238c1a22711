package capture

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

const (
	rootfsFile = "rootfs.tar"
	layerType  = "application/vnd.oci.image.layer.v1.tar"
)

// base stores the lower layers of a container of another runtime, bottom first, so that the snapshot stands by itself.
func (s *session) base(ctx context.Context) error {
	if s.Base != nil {
		s.cfg.Base = *s.Base
		return nil
	}
	lower := s.Source.Lower
	for i := len(lower) - 1; i >= 0; i-- {
		r, w := io.Pipe()
		go func() { w.CloseWithError(store.WriteLayer(ctx, w, lower[i])) }()
		digest, err := s.Store.AddLayer(ctx, r, layerType)
		r.CloseWithError(err)
		if err != nil {
			return fmt.Errorf("store the layer %s: %w", lower[i], err)
		}
		s.cfg.Base.Layers = append(s.cfg.Base.Layers, digest)
	}
	return nil
}

// contentFile is where the content of the i-th mount is staged.
func (s *session) contentFile(i int) string {
	return filepath.Join(s.txn.Dir(), fmt.Sprintf("content-%d.tar", i))
}

// files writes the container's own files while its tasks are frozen: those of its root file system that differ from
// the base, and the content of its tmpfs mounts and generated files.
func (s *session) files(ctx context.Context) error {
	var err error
	if s.places, err = s.strays.places(s.Source.Pid); err != nil {
		return err
	}
	if s.Source.Upper != "" {
		err := writeFile(filepath.Join(s.txn.Dir(), rootfsFile), func(w io.Writer) error {
			return store.WriteLayer(ctx, w, s.Source.Upper)
		})
		if err != nil {
			return fmt.Errorf("copy the files of %s: %w", s.on(), err)
		}
	}
	for i, m := range s.cfg.Mounts {
		path, ok := sandbox.CaptureMount(s.Source.Pid, m)
		if !ok {
			continue
		}
		write := store.WriteTree
		if st, err := os.Lstat(path); err == nil && !st.IsDir() {
			write = store.WriteFile
		}
		if err := writeFile(s.contentFile(i), func(w io.Writer) error { return write(ctx, w, path) }); err != nil {
			return fmt.Errorf("copy the content of %s: %w", m.Path, err)
		}
	}
	return s.dump.Frozen()
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(f, 1<<20)
	if err := write(b); err != nil {
		f.Close()
		return err
	}
	if err := b.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// seal drops what need not be stored and reads the images to say what they hold.
func (s *session) seal(context.Context) error {
	var err error
	if s.cfg.Memory, err = criu.ElideZeros(s.imagesDir()); err != nil {
		return err
	}
	if err := s.placeStrays(); err != nil {
		return err
	}
	if err := describe(s.imagesDir(), &s.cfg); err != nil {
		return err
	}
	if s.guests > 0 {
		s.cfg.Findings = append(s.cfg.Findings, snapshot.Finding{Code: "exec-not-captured",
			Detail: fmt.Sprintf("%d processes that exec started are not part of the snapshot", s.guests)})
	}
	return nil
}

// placeStrays makes the strays files of the container in the images.
func (s *session) placeStrays() error {
	im, err := criu.Open(s.imagesDir())
	if err != nil {
		return err
	}
	return im.PlaceFiles(s.places)
}

func (s *session) blobs(context.Context) error {
	images, err := s.txn.AddImages(s.imagesDir())
	if err != nil {
		return err
	}
	s.layers = append(s.layers, images...)
	if s.Source.Upper != "" {
		l, err := s.txn.AddFile(filepath.Join(s.txn.Dir(), rootfsFile), layerType, snapshot.RoleRootfs, "")
		if err != nil {
			return err
		}
		s.layers = append(s.layers, l)
	}
	for i := range s.cfg.Mounts {
		if _, err := os.Stat(s.contentFile(i)); err != nil {
			continue
		}
		l, err := s.txn.AddFile(s.contentFile(i), snapshot.MediaContent, snapshot.RoleContent, s.cfg.Mounts[i].Key)
		if err != nil {
			return err
		}
		s.cfg.Mounts[i].Content = l.Digest
		s.layers = append(s.layers, l)
	}
	return nil
}

func (s *session) publish(context.Context) error {
	if s.dump != nil { // it ends with the snapshot, and so must not have run meanwhile
		if err := s.dump.Frozen(); err != nil {
			return err
		}
	}
	s.cfg.Phases = s.run.Phases
	var err error
	s.made, err = s.txn.Publish(s.Name, s.cfg, s.layers, s.Replace)
	return err
}

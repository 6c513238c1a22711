package store

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// RootfsFiles returns the files that a snapshot's own layer holds, by name, each with a text that stands for its kind,
// mode, owner and content.
func (s *Store) RootfsFiles(ctx context.Context, id string) (map[string]string, error) {
	sn, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	files := make(map[string]string)
	for _, l := range sn.Layers {
		if l.Role != snapshot.RoleRootfs {
			continue
		}
		f, err := os.Open(s.blobPath(l.Digest))
		if err != nil {
			return nil, failure("read", snapshot.ShortID(id), err)
		}
		err = listTar(ctx, f, files)
		f.Close()
		if err != nil {
			return nil, failure("read", snapshot.ShortID(id), err)
		}
	}
	return files, nil
}

func listTar(ctx context.Context, r io.Reader, files map[string]string) error {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	for tr := tar.NewReader(plain); ctx.Err() == nil; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		digest, _, err := digestReader(contextReader{ctx, tr})
		if err != nil {
			return err
		}
		files["/"+h.Name] = fmt.Sprintf("%c %o %d:%d %s %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, digest)
	}
	return context.Cause(ctx)
}

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// tree holds files by name: the directory of an OCI layout, or a tar of one.
type tree interface {
	// file opens a regular file and tells its size. The error for one that is missing is fs.ErrNotExist.
	file(name string) (io.ReadCloser, int64, error)
}

// directory is a tree on disk. Its links are followed as long as they stay inside.
type directory struct{ root *os.Root }

func (d directory) file(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// layout reads an OCI image layout, wherever its files lie.
type layout struct{ files tree }

func (o layout) open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	r, size, err := o.files.file(path.Join(v1.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, damaged(errors.New("it is missing"))
	case err != nil:
		return nil, err
	case size != d.Size:
		r.Close()
		return nil, damaged(fmt.Errorf("it has %d bytes and should have %d", size, d.Size))
	}
	return r, nil
}

func (l *loader) loadLayout(ctx context.Context, files tree, tag string) (*Image, error) {
	raw, err := readSmall(files, v1.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, corrupt(v1.ImageIndexFile, err)
	}
	root, err := l.choose(index.Manifests, tag)
	if err != nil {
		return nil, err
	}
	return l.loadTree(ctx, layout{files}, root)
}

// choose finds the image meant in an index.json: the one with the tag, or, without a tag, the only one there is.
func (l *loader) choose(entries []v1.Descriptor, tag string) (v1.Descriptor, error) {
	var tags []string
	var found []v1.Descriptor
	for _, d := range entries {
		short, full := d.Annotations[v1.AnnotationRefName], d.Annotations["io.containerd.image.name"]
		if short != "" && !slices.Contains(tags, short) {
			tags = append(tags, short)
		}
		means := tag == "" || sameTag(short, tag) || sameTag(full, tag) || d.Digest.String() == tag
		if means && !slices.ContainsFunc(found, func(f v1.Descriptor) bool { return f.Digest == d.Digest }) {
			found = append(found, d)
		}
	}
	switch {
	case tag != "" && len(found) == 0:
		return v1.Descriptor{}, notAnImage("it holds no image with the tag %q%s", tag, listing(tags))
	case len(found) == 1:
		return found[0], nil
	case tag == "" && len(tags) > 1:
		return v1.Descriptor{}, notAnImage("it holds several images; add :TAG%s", listing(tags))
	default:
		return l.pick(found) // index.json itself lists one image for several platforms
	}
}

func listing(tags []string) string {
	if len(tags) == 0 {
		return ""
	}
	slices.Sort(tags)
	return " (there are: " + strings.Join(tags, ", ") + ")"
}

// readSmall reads a file that an image format prescribes.
func readSmall(files tree, name string) ([]byte, error) {
	r, size, err := files.file(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, corrupt(name, errors.New("it is missing"))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer r.Close()
	if size > mostMetadata {
		return nil, corrupt(name, fmt.Errorf("it has %d bytes, which is too much", size))
	}
	data, err := io.ReadAll(io.LimitReader(r, mostMetadata))
	if err == nil && int64(len(data)) != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, corrupt(name, err)
	}
	return data, nil
}

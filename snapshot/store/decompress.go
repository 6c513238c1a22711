package store

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// compression is told by the first bytes of a stream, never by a media type or a file's name.
type compression int

const (
	plain compression = iota
	gzipped
	zstandard
)

func compressionOf(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstandard
	}
	return plain
}

// maxWindow bounds the memory that a zstd frame can ask for: what `zstd --ultra --long=27` writes is still read.
const maxWindow = 128 << 20

// decompress returns the plain content of r. Closing it does not close r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch compressionOf(head) {
	case gzipped:
		return gzip.NewReader(b)
	case zstandard:
		d, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// layerMediaType returns OCI's media type of a layer blob.
func layerMediaType(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch compressionOf(head[:n]) {
	case gzipped:
		return v1.MediaTypeImageLayerGzip, nil
	case zstandard:
		return v1.MediaTypeImageLayerZstd, nil
	}
	return v1.MediaTypeImageLayer, nil
}

// normalLayerType maps Docker's media types of layers to OCI's; what it does not know becomes "".
func normalLayerType(mediaType string) string {
	switch mediaType {
	case v1.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar":
		return v1.MediaTypeImageLayer
	case v1.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return v1.MediaTypeImageLayerGzip
	case v1.MediaTypeImageLayerZstd, "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return v1.MediaTypeImageLayerZstd
	}
	return ""
}

// checkTar says whether a file begins like a tar, compressed or not.
func checkTar(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := tar.NewReader(r).Next(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

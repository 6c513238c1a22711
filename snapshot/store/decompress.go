package store

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
)

// decompress returns the plain content of r, which may be compressed with gzip or zstd. Closing it does not close r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	c, err := tarball.Sniff(b)
	if err != nil {
		return nil, err
	}
	if c == tarball.XZ {
		return nil, invalid("read", "the archive", "decompress it first: xz -d", "it is compressed with xz")
	}
	return c.Open(context.Background(), b)
}

// layerMediaType returns OCI's media type of a layer blob.
func layerMediaType(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	c, err := tarball.Sniff(bufio.NewReader(f))
	return c.LayerType(), err
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

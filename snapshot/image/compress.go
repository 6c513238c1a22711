package image

import (
	"context"
	"errors"
	"io"
	"os/exec"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// open returns the plain bytes of r, which is compressed so.
func open(ctx context.Context, c tarball.Compression, r io.Reader) (io.ReadCloser, error) {
	body, err := c.Open(ctx, r)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, faultf(snapshot.KindUnsupported, "install xz-utils, or decompress the file first", "it is compressed with xz: %w", err)
	}
	return body, err
}

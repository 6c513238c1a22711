package tarball

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression is how a stream is compressed. It is told by the stream's first bytes, never by a media type or a file's
// name.
type Compression int

// The compressions that are known.
const (
	Plain Compression = iota
	Gzip
	Zstd
	XZ
)

// Sniff looks at the first bytes that r will give.
func Sniff(r *bufio.Reader) (Compression, error) {
	head, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return Plain, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return Gzip, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd, nil
	case len(head) >= 4 && head[0]>>4 == 5 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd, nil // a skippable frame
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ, nil
	default:
		return Plain, nil
	}
}

// LayerType returns OCI's media type of a layer that is so compressed. There is none for xz.
func (c Compression) LayerType() string {
	switch c {
	case Gzip:
		return v1.MediaTypeImageLayerGzip
	case Zstd:
		return v1.MediaTypeImageLayerZstd
	default:
		return v1.MediaTypeImageLayer
	}
}

// mostWindow bounds the memory that a zstd frame can ask for: what `zstd --ultra --long=27` writes is still read.
const mostWindow = 128 << 20

// DamageError is an error about the stream, not about whoever reads it.
type DamageError struct{ Err error }

func (e *DamageError) Error() string { return e.Err.Error() }
func (e *DamageError) Unwrap() error { return e.Err }

// Open returns the plain bytes of r. Closing it ends whatever was started for it and leaves r alone. For xz it needs the
// program of that name; an error because there is none is [os/exec.ErrNotFound].
func (c Compression) Open(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	switch c {
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, &DamageError{fmt.Errorf("gzip: %w", err)}
		}
		return z, nil
	case Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(mostWindow))
		if err != nil {
			return nil, &DamageError{err}
		}
		return d.IOReadCloser(), nil
	case XZ:
		return openXZ(ctx, r)
	default:
		return io.NopCloser(r), nil
	}
}

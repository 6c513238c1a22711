package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

type compression int

const (
	plain compression = iota
	gzipped
	zstandard
	xzed
)

// sniff looks at the first bytes that r will give.
func sniff(r *bufio.Reader) (compression, error) {
	head, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return plain, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return gzipped, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstandard, nil
	case len(head) >= 4 && head[0]>>4 == 5 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return zstandard, nil // a skippable frame
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xzed, nil
	default:
		return plain, nil
	}
}

func (c compression) mediaType() string {
	switch c {
	case gzipped:
		return v1.MediaTypeImageLayerGzip
	case zstandard:
		return v1.MediaTypeImageLayerZstd
	default:
		return v1.MediaTypeImageLayer
	}
}

// open returns the plain bytes of r. Closing it ends whatever was started for it and leaves r alone.
func (c compression) open(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	switch c {
	case gzipped:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, &damageError{err}
		}
		return z, nil
	case zstandard:
		const mostWindow = 128 << 20
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(mostWindow))
		if err != nil {
			return nil, &damageError{err}
		}
		return d.IOReadCloser(), nil
	case xzed:
		return openXZ(ctx, r)
	default:
		return io.NopCloser(r), nil
	}
}

// xzReader reads from a child process xz: no other file format of images needs it, so we do not carry a decoder.
type xzReader struct {
	io.Reader
	cmd      *exec.Cmd
	stop     context.CancelFunc
	messages *bytes.Buffer
	finished bool
}

func openXZ(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	program, err := exec.LookPath("xz")
	if err != nil {
		return nil, faultf(snapshot.KindUnsupported, "install xz-utils, or decompress the file first", "it is compressed with xz: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	x := &xzReader{cmd: exec.CommandContext(ctx, program, "-dc"), stop: stop, messages: new(bytes.Buffer)}
	x.cmd.Stdin, x.cmd.Stderr = r, x.messages
	x.cmd.WaitDelay = 5 * time.Second // for a source that blocks
	x.Reader, err = x.cmd.StdoutPipe()
	if err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("start xz: %w", err)
	}
	return x, nil
}

func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.Reader.Read(p)
	if err == nil {
		return n, nil
	}
	if x.finished {
		return n, io.EOF
	}
	x.finished = true
	if failed := x.cmd.Wait(); failed != nil {
		if text := strings.Join(strings.Fields(x.messages.String()), " "); text != "" {
			failed = errors.New(text)
		}
		return n, corrupt("xz stream", failed)
	}
	return n, io.EOF
}

func (x *xzReader) Close() error {
	x.stop()
	if !x.finished {
		x.finished = true
		_ = x.cmd.Wait() // it was killed
	}
	return nil
}

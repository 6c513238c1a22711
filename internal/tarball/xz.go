package tarball

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// xzReader reads from a child process xz: few archives need it, so we do not carry a decoder.
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
		return nil, err
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
		return n, &DamageError{fmt.Errorf("xz stream: %w", failed)}
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

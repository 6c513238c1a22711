package template

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// stubVariable names the stub of templates, which else lies beside the shim.
const stubVariable = "SNAPD_CTR_STUB"

// StubOf returns the path of the stub that a shim takes.
func StubOf(shim string) string {
	if path := os.Getenv(stubVariable); path != "" {
		return path
	}
	if real, err := filepath.EvalSymlinks(shim); err == nil {
		shim = real
	}
	return filepath.Join(filepath.Dir(shim), "snapd-ctr-stub")
}

// TryStub runs the stub until it has said hello. One that cannot be run is an error of kind unsupported.
func TryStub(ctx context.Context, path string) error {
	thread := sys.NewThread()
	defer thread.Close()
	t := &Template{dead: make(chan struct{})}
	if err := t.start(Options{Stub: path, Launch: thread.Do}); err != nil {
		return err
	}
	b, err := t.talk.hear(ctx, buildLimit)
	if err == nil {
		_, err = unpack[hello](b)
	}
	return errors.Join(err, t.Close())
}

// stubError explains why the stub could not be started.
func stubError(path string, err error) error {
	var why error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = errors.New("it is not installed")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOEXEC):
		why = fmt.Errorf("it cannot be run: %w", err)
	default:
		return fmt.Errorf("start the stub: %w", err)
	}
	return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "stub of templates", On: path, Err: why,
		Hint: "`make install` puts it beside the shim on x86-64, or set " + stubVariable + "; until then clones are made by the engine criu"}
}

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const forms = "an image is an OCI layout DIR[:TAG], an OCI archive, a docker save archive or a root file system as a tar FILE, " +
	"or a registry reference such as alpine:3.20"

// fault is an error with its kind and hint, before Load wraps it with what the user gave.
type fault struct {
	kind snapshot.Kind
	hint string
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func faultf(kind snapshot.Kind, hint, format string, args ...any) error {
	return &fault{kind, hint, fmt.Errorf(format, args...)}
}

// corrupt says that the part of the image called what is damaged.
func corrupt(what string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it is truncated")
	}
	return faultf(snapshot.KindCorrupt, "get or make the image again", "%s: %w", what, err)
}

// damaged marks an error that says that bytes are not what they should be; [named] says of what.
func damaged(err error) error { return &tarball.DamageError{Err: err} }

// otherThing is what is wrong with a file or directory that is no image at all. A name that is also a registry
// reference is then taken for one.
type otherThing struct{ err error }

func (o *otherThing) Error() string { return o.err.Error() }
func (o *otherThing) Unwrap() error { return o.err }

func notAnImage(format string, args ...any) error {
	return faultf(snapshot.KindInvalid, forms, format, args...)
}

// fail makes the error of Load of whatever went wrong. A cause that already carries a kind keeps it.
func (l *loader) fail(ctx context.Context, err error) error {
	e := &snapshot.Error{Kind: snapshot.KindFailed, Op: "load image", On: l.ref, Err: err}
	if known, ok := errors.AsType[*snapshot.Error](err); ok {
		e.Kind, e.Hint = known.Kind, known.Hint
	}
	if f, ok := errors.AsType[*fault](err); ok {
		e.Kind, e.Hint = f.kind, f.hint
	}
	switch {
	case ctx.Err() != nil:
		e.Kind, e.Hint, e.Err = snapshot.KindFailed, "", context.Cause(ctx)
	case errors.Is(err, syscall.ENOSPC):
		e.Kind, e.Hint = snapshot.KindNoSpace, "make room on the file system, or remove snapshots that are not needed"
	}
	if s := e.Err.Error(); strings.ContainsAny(s, "\r\n") {
		e.Err = errors.New(strings.Join(strings.Fields(s), " "))
	}
	return e
}

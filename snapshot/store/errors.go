package store

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// failure wraps err for the caller of this package. An error that has a kind keeps it; a full disk gets one.
func failure(op, on string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*snapshot.Error](err); ok {
		return err
	}
	e := &snapshot.Error{Kind: snapshot.KindFailed, Op: op, On: on, Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		e.Kind = snapshot.KindNoSpace
		e.Hint = "free some space: `snapd-ctr snapshots gc` deletes what no snapshot needs; or move the store to a larger file system"
	case errors.Is(err, syscall.EDQUOT):
		e.Kind = snapshot.KindNoSpace
		e.Hint = "the disk quota is used up; raise it, or delete snapshots and run `snapd-ctr snapshots gc`"
	}
	return e
}

func invalid(op, on, hint, format string, args ...any) error {
	return &snapshot.Error{Kind: snapshot.KindInvalid, Op: op, On: on, Err: fmt.Errorf(format, args...), Hint: hint}
}

// corrupt says that stored data is damaged; where names the blob, the file or the archive's entry.
func corrupt(op, where, format string, args ...any) error {
	return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: op, On: where, Err: fmt.Errorf(format, args...),
		Hint: "what is damaged must come again: take or import the snapshot anew; `snapd-ctr fsck` shows what else is wrong"}
}

func incompatible(op, on, hint, format string, args ...any) error {
	return &snapshot.Error{Kind: snapshot.KindIncompatible, Op: op, On: on, Err: fmt.Errorf(format, args...), Hint: hint}
}

// missing says that a blob that something names is not there: damage, not a wrong request.
func missing(op, digest string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: op, On: digest, Err: errors.New("the blob is missing"),
			Hint: "`snapd-ctr fsck` shows what else is damaged; import or take the snapshot again"}
	}
	return failure(op, digest, err)
}

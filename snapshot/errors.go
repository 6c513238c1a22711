package snapshot

import (
	"errors"
	"strings"
	"syscall"
)

// Kind says what sort of failure an [Error] is. The command line maps each kind to one exit code.
type Kind string

// The kinds of failure. A failure that fits none of them is KindFailed.
const (
	KindFailed       Kind = "failed"        // the operation was tried and did not work
	KindInvalid      Kind = "invalid"       // the request makes no sense; nothing was tried
	KindPartial      Kind = "partial"       // some of several things worked
	KindNotFound     Kind = "not-found"     // the thing named does not exist
	KindExists       Kind = "exists"        // the name is taken
	KindState        Kind = "state"         // the thing exists and is in the wrong state (exited, busy, in use)
	KindUnreachable  Kind = "unreachable"   // the process that answers for it does not answer
	KindUnsupported  Kind = "unsupported"   // this host lacks a capability
	KindDevice       Kind = "device"        // a device plugin failed
	KindCorrupt      Kind = "corrupt"       // stored data is damaged
	KindIncompatible Kind = "incompatible"  // stored data is sound and cannot be used here
	KindNoSpace      Kind = "no-space"      // a file system is full
	KindUncloneable  Kind = "not-cloneable" // the container holds something that cannot be captured
)

// Error is the error that crosses package boundaries: what was being done, on what, why it failed and what to do.
type Error struct {
	Kind Kind
	Op   string // the operation, a verb: "snapshot", "clone"
	On   string // what it was done on: a container, a snapshot, a path
	Err  error  // why
	Hint string // what the user can do about it; one line, may be empty
	Log  string // the tail of an external tool's log, may be empty
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.On != "" {
		b.WriteString(" ")
		b.WriteString(e.On)
	}
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost [Error] in err's chain, and KindFailed where there is none. A full file system
// is KindNoSpace wherever it was met.
func KindOf(err error) Kind {
	kind := KindFailed
	if e, ok := errors.AsType[*Error](err); ok {
		kind = e.Kind
	}
	if kind == KindFailed && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		return KindNoSpace
	}
	return kind
}

// HintOf returns the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// LogOf returns the first tool log in err's chain, or "".
func LogOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Log != "" {
			return e.Log
		}
		err = e.Err
	}
	return ""
}

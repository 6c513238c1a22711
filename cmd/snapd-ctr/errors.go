package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// usageError is a command line that makes no sense.
type usageError struct {
	message string
	hint    string
}

func usagef(format string, args ...any) *usageError {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// hinted adds what the user can do about it.
func (e *usageError) hinted(format string, args ...any) *usageError {
	e.hint = fmt.Sprintf(format, args...)
	return e
}

func (e *usageError) Error() string { return e.message }

// statusError is the exit status of a program that ran in a container: it is passed on without a word.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// ownError is an error of ours in a command whose exit codes are those of a program.
type ownError struct{ err error }

func (e ownError) Error() string { return e.err.Error() }
func (e ownError) Unwrap() error { return e.err }

// interrupted is an error that came after the user asked to stop.
type interrupted struct{ err error }

func (e interrupted) Error() string { return e.err.Error() }
func (e interrupted) Unwrap() error { return e.err }

// severalError stands for failures that have been printed.
type severalError struct {
	failed []error
	of     int
}

func (e severalError) Error() string { return fmt.Sprintf("%d of %d failed", len(e.failed), e.of) }

// kind is partial when something worked, and that of the first failure otherwise.
func (e severalError) kind() snapshot.Kind {
	if len(e.failed) < e.of {
		return snapshot.KindPartial
	}
	return kindOf(e.failed[0])
}

func kindOf(err error) snapshot.Kind {
	if _, ok := errors.AsType[*usageError](err); ok {
		return snapshot.KindInvalid
	}
	if e, ok := errors.AsType[severalError](err); ok {
		return e.kind()
	}
	return snapshot.KindOf(err)
}

// verdict is what becomes of an error: the one place where errors are given exit codes.
type verdict struct {
	Type    string `json:"type"`
	Code    int    `json:"code"`
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
	Log     string `json:"log,omitempty"`
}

func judge(err error) verdict {
	v := verdict{
		Type:    "exit_error",
		Kind:    string(kindOf(err)),
		Message: oneLine(err.Error()),
		Hint:    oneLine(snapshot.HintOf(err)),
		Log:     strings.TrimSpace(snapshot.LogOf(err)),
	}
	v.Code = codeOf(snapshot.Kind(v.Kind))
	if u, ok := errors.AsType[*usageError](err); ok {
		v.Hint = u.hint
	} else if _, ok := errors.AsType[ownError](err); ok {
		v.Code = codeRunFailed
	}
	if p, ok := errors.AsType[*api.ProgramError](err); ok {
		v.Code = p.Status
	}
	if i, ok := errors.AsType[interrupted](err); ok {
		v.Code, v.Kind = codeInterrupted, "interrupted"
		if errors.Is(i.err, context.Canceled) && snapshot.KindOf(i.err) == snapshot.KindFailed {
			v.Message = "interrupted"
		}
	}
	return v
}

// report prints an error and returns the exit code. path names the command.
func (a *app) report(err error, path []string, asJSON bool) int {
	if err == nil {
		return codeOK
	}
	if status, ok := errors.AsType[statusError](err); ok {
		return int(status)
	}
	v := judge(err)
	if _, ok := errors.AsType[*usageError](err); ok && v.Hint == "" {
		v.Hint = "see: " + strings.Join(append([]string{"snapd-ctr"}, append(path, "--help")...), " ")
	}
	if asJSON {
		_ = json.NewEncoder(a.stderr).Encode(v)
		return v.Code
	}
	// Errors of the service begin with the operation, which is most often the command: it is not said twice.
	prefix := strings.Join(path, " ")
	if prefix != "" && !strings.HasPrefix(v.Message, prefix+" ") && !strings.HasPrefix(v.Message, prefix+":") {
		v.Message = prefix + ": " + v.Message
	}
	a.words("snapd-ctr: %s", v.Message)
	if v.Hint != "" {
		a.words("hint: %s", v.Hint)
	}
	if v.Log != "" {
		a.words("log:\n  %s", strings.ReplaceAll(v.Log, "\n", "\n  "))
	}
	return v.Code
}

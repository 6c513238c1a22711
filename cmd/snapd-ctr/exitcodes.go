package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// The exit codes that are not those of a kind of error.
const (
	codeOK          = 0
	codeUsage       = 2
	codePartial     = 3
	codeRunFailed   = 125
	codeCannotRun   = 126
	codeNoProgram   = 127
	codeInterrupted = 130
)

// exitCode is a row of the table of exit codes: the one place where they are given a meaning.
type exitCode struct {
	code    int
	kinds   []snapshot.Kind
	meaning string
}

func exitCodes() []exitCode {
	return []exitCode{
		{codeOK, nil, "done"},
		{1, []snapshot.Kind{snapshot.KindFailed}, "it was tried and failed"},
		{codeUsage, []snapshot.Kind{snapshot.KindInvalid}, "bad usage, or a request that makes no sense; nothing was done"},
		{codePartial, []snapshot.Kind{snapshot.KindPartial}, "some of several things were done and some failed"},
		{10, []snapshot.Kind{snapshot.KindNotFound}, "no such container, snapshot or file"},
		{11, []snapshot.Kind{snapshot.KindExists, snapshot.KindState}, "the name is taken, or the thing is in the wrong state or busy"},
		{12, []snapshot.Kind{snapshot.KindUnreachable}, "the process that answers for it does not answer"},
		{13, []snapshot.Kind{snapshot.KindUnsupported}, "this host lacks a capability; see snapd-ctr doctor"},
		{14, []snapshot.Kind{snapshot.KindDevice}, "a device failed"},
		{15, []snapshot.Kind{snapshot.KindCorrupt, snapshot.KindIncompatible}, "stored data is damaged, or cannot be used on this host"},
		{16, []snapshot.Kind{snapshot.KindUncloneable}, "the container holds something that cannot be captured"},
		{17, []snapshot.Kind{snapshot.KindNoSpace}, "a file system is full"},
		{codeRunFailed, nil, "exec and run --attach: snapd-ctr itself failed (their other codes are the program's own)"},
		{codeCannotRun, nil, "exec and run: the program could not be started"},
		{codeNoProgram, nil, "exec and run: the program was not found"},
		{codeInterrupted, nil, "interrupted"},
	}
}

// codeOf returns the exit code for a kind of error.
func codeOf(kind snapshot.Kind) int {
	for _, e := range exitCodes() {
		for _, k := range e.kinds {
			if k == kind {
				return e.code
			}
		}
	}
	return 1
}

func writeExitCodes(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CODE\tMEANING")
	for _, e := range exitCodes() {
		fmt.Fprintf(t, "%d\t%s\n", e.code, e.meaning)
	}
	return t.Flush()
}

package shim

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Exit statuses that stand for a program that could not be started, as shells and Docker have them.
const (
	StatusNotExecutable = 126
	StatusNotFound      = 127
)

// ProgramError is a container's program that could not be started, where the program is to blame. Status is the exit
// status that a shell gives in its place.
type ProgramError struct {
	Status int
	Err    error
}

func (e *ProgramError) Error() string { return e.Err.Error() }

func (e *ProgramError) Unwrap() error { return e.Err }

// refusal is one thing that libcontainer, which reports from another process in words alone, says of a start that the
// request is to blame for.
type refusal struct {
	says   *regexp.Regexp // its groups are what On is made of
	op     string
	on     string // format for the groups
	why    string
	hint   string
	status int // 0 where a shell has none
}

func refusals() []refusal {
	says := regexp.MustCompile
	const along, where = "it is looked up in the container, along its PATH", "-w takes a directory of the container; one that is missing is made by run"
	const both = "a directory can only be shown at a directory, and a file at a file"
	return []refusal{
		{says(`exec: ("[^"]*"): executable file not found`), "program", "%s", "not found in the container", along, StatusNotFound},
		{says(`exec: ("[^"]*"): .*no such file or directory`), "program", "%s", "not found in the container", "", StatusNotFound},
		{says(`exec: ("[^"]*"): .*permission denied`), "program", "%s", "not executable", "chmod +x makes it so; its user must be able to reach it", StatusNotExecutable},
		{says(`exec: ("[^"]*"): .*is a directory`), "program", "%s", "is a directory", "name a program after the flags", StatusNotExecutable},
		{says(`exec: ("[^"]*"): .*not a directory`), "program", "%s", "not found in the container: a part of its path is a file", "", StatusNotFound},
		{says(`chdir to cwd \(("[^"]*")\).*no such file or directory`), "working directory", "%s", "not there in the container", where, StatusNotExecutable},
		{says(`chdir to cwd \(("[^"]*")\).*not a directory`), "working directory", "%s", "not a directory", where, StatusNotExecutable},
		{says(`chdir to cwd \(("[^"]*")\).*permission denied`), "working directory", "%s", "the user may not enter it", "-u names another user", StatusNotExecutable},
		{says(`container init: mkdir (/[^:]*): not a directory`), "working directory", "%q", "not a directory", where, StatusNotExecutable},
		{says(`error mounting "(/[^"]*)" to rootfs at "([^"]*)": .*(?:not|is) a directory`), "volume", "%s:%s",
			"one is a directory and the other is not", both, 0},
		{says(`error mounting "(/[^"]*)" to rootfs at "([^"]*)": .*/proc`), "volume", "%s:%s", "nothing can be shown below /proc", "choose another target", 0},
		{says(`error mounting "(/[^"]*)" to rootfs at "([^"]*)": .*no such file or directory`), "volume", "%s:%s", "the source is gone", "make it again", 0},
	}
}

// explain puts into our words what libcontainer says of a start that the request is to blame for. Other errors lose
// nothing but libcontainer's introductions. An error that says several things stays as it is.
func explain(err error) error {
	if err == nil || strings.Contains(err.Error(), "\n") {
		return err
	}
	for _, r := range refusals() {
		found := r.says.FindStringSubmatch(err.Error())
		if found == nil {
			continue
		}
		groups := make([]any, len(found)-1)
		for i := range groups {
			groups[i] = found[i+1]
		}
		told := &snapshot.Error{Kind: snapshot.KindInvalid, Op: r.op, On: fmt.Sprintf(r.on, groups...), Err: errors.New(r.why), Hint: r.hint}
		switch r.status {
		case 0:
			return told
		case StatusNotExecutable:
			told.Kind = snapshot.KindFailed // it is there
		}
		return &ProgramError{Status: r.status, Err: told}
	}
	return shorter(err)
}

// shorter leaves out of an error which steps libcontainer was at.
func shorter(err error) error {
	e, ok := errors.AsType[*snapshot.Error](err)
	if !ok || e.Err == nil {
		return err
	}
	text := e.Err.Error()
	for _, phrase := range []string{"unable to start container process: ", "error during container init: "} {
		text = strings.ReplaceAll(text, phrase, "")
	}
	if text == e.Err.Error() {
		return err
	}
	return &snapshot.Error{Kind: e.Kind, Op: e.Op, On: e.On, Err: errors.New(text), Hint: snapshot.HintOf(err), Log: snapshot.LogOf(err)}
}

package criu

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// refused is criu's own report of a failure, with the last thing it logged.
type refused struct{ said string }

func (r refused) Error() string {
	if lines := errorLines(r.said); len(lines) > 0 {
		return lines[0]
	}
	return "criu failed and did not say why"
}

// failure makes the error for an operation on the tree of root (0: not known) that failed with cause and has its log at
// logPath. Where criu itself is the cause, its log says why.
func failure(op string, root int, cause error, logPath string) *snapshot.Error {
	log := readLog(logPath)
	e := &snapshot.Error{Kind: snapshot.KindFailed, Op: op, Err: cause, Log: tail(log)}
	if root > 0 {
		e.On = fmt.Sprintf("process %d", root)
	}
	_, byCRIU := errors.AsType[refused](cause)
	if !byCRIU && !errors.Is(cause, errDied) {
		return e
	}
	if why, ok := diagnose(log, kernel{root}); ok && byCRIU {
		e.Kind, e.Hint = why.kind, why.hint
		e.Err = errors.New(why.text)
	} else if first := firstError(log); first != "" {
		e.Err = fmt.Errorf("%w: %s", cause, first)
		if byCRIU {
			e.Err = errors.New(first)
		}
	}
	return e
}

// witness answers what a log leaves open.
type witness interface {
	// process names a process for people.
	process(pid int) string
	// holder finds a process with a descriptor whose link in /proc/PID/fd is link.
	holder(link string) (pid, fd int, ok bool)
}

// diagnosis is a log, understood.
type diagnosis struct {
	kind snapshot.Kind
	text string
	hint string
}

// symptom is something that CRIU logs, and what it means.
type symptom struct {
	log  *regexp.Regexp
	kind snapshot.Kind
	// text may contain WHO, the process concerned, FD, " as descriptor N" where that is known, and $1, $2: what the
	// pattern caught.
	text string
	hint string
	link string // how the offending descriptor looks in /proc/PID/fd; $1 as above
	pid  int    // which group of the pattern is the process id; 0: CRIU says it in a later line
}

var (
	pidMention = regexp.MustCompile(`\(pid: (\d+)\)`)
	reference  = regexp.MustCompile(`\$(\d)`)
)

// diagnose looks for the first known symptom in a log.
func diagnose(log string, w witness) (diagnosis, bool) {
	text := strings.Join(errorLines(log), "\n")
	for _, s := range symptoms {
		m := s.log.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		return diagnosis{kind: s.kind, text: s.describe(m, text, w), hint: s.hint}, true
	}
	return diagnosis{}, false
}

func (s symptom) describe(m []string, log string, w witness) string {
	fill := func(template string) string {
		return reference.ReplaceAllStringFunc(template, func(ref string) string {
			if i := int(ref[1] - '0'); i < len(m) {
				return m[i]
			}
			return ""
		})
	}
	pid := 0
	if s.pid > 0 {
		pid, _ = strconv.Atoi(m[s.pid])
	} else if mention := pidMention.FindStringSubmatch(log); mention != nil {
		pid, _ = strconv.Atoi(mention[1])
	}
	fd := ""
	if s.link != "" {
		if p, n, ok := w.holder(fill(s.link)); ok {
			pid, fd = p, fmt.Sprintf(" as descriptor %d", n)
		}
	}
	who := "a process"
	if pid > 0 {
		who = w.process(pid)
	}
	return strings.NewReplacer("WHO", who, "FD", fd).Replace(fill(s.text))
}

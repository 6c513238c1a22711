package main

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const (
	docsPath = "../../docs/cli.md"
	marker   = "<!-- What follows is the output of: snapd-ctr man --markdown -->\n"
)

// TestDocs compares the reference in docs/cli.md with the program. UPDATE_DOCS=1 writes it anew.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	head, reference, ok := strings.Cut(string(b), marker)
	if !ok {
		t.Fatalf("%s lacks the line %q", docsPath, marker)
	}
	var want bytes.Buffer
	if err := writeMarkdown(&want, fakeApp().cli()); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(docsPath, []byte(head+marker+"\n"+want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff("\n"+want.String(), reference); d != "" {
		t.Errorf("docs/cli.md is not what the program says; UPDATE_DOCS=1 go test ./cmd/snapd-ctr writes it anew (-want +got):\n%s", d)
	}
}

// TestEverythingIsDocumented looks for each command, flag, variable and exit code by itself, so that a gap in what
// writes the reference shows.
func TestEverythingIsDocumented(t *testing.T) {
	b, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	text, c := string(b), fakeApp().cli()
	has := func(s string) {
		t.Helper()
		if !strings.Contains(text, s) {
			t.Errorf("docs/cli.md does not have %q", s)
		}
	}
	for cmd := range allCommands(c.Commands) {
		if cmd.Hidden {
			continue
		}
		has(" " + cmd.Name + "\n")
		if cmd.Usage == "" || !strings.HasPrefix(cmd.Description, "    snapd-ctr ") && cmd.Name != "completion" {
			t.Errorf("%s: the help does not begin with an example", cmd.Name)
		}
		if len(cmd.Subcommands) == 0 && !strings.Contains(cmd.Description, "\n\nEXIT STATUS\n\n") {
			t.Errorf("%s: the help has no section on exit status", cmd.Name)
		}
		for name := range flagTable(cmd.Flags) {
			has(dashed(name))
		}
	}
	for name := range flagTable(c.Flags) {
		has(dashed(name))
	}
	for _, v := range variables(c) {
		has("`" + v.name + "`")
	}
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// TestExitCodes compares the table that the program works by with the one in docs/cli.md, and makes sure that each kind
// of error has one code.
func TestExitCodes(t *testing.T) {
	b, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "## Exit codes\n")
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]*) \|`).FindAllStringSubmatch(section, -1) {
		documented = append(documented, row[1]+" "+row[2])
	}
	var want []string
	for _, e := range exitCodes() {
		var kinds []string
		for _, k := range e.kinds {
			kinds = append(kinds, "`"+string(k)+"`")
			if got := judge(&snapshot.Error{Kind: k, Op: "x"}).Code; got != e.code {
				t.Errorf("an error of kind %s exits with %d and not %d", k, got, e.code)
			}
		}
		want = append(want, strings.TrimRight(strconv.Itoa(e.code)+" "+strings.Join(kinds, ", "), " "))
	}
	for i := range documented {
		documented[i] = strings.TrimRight(documented[i], " ")
	}
	if d := cmp.Diff(want, documented); d != "" {
		t.Errorf("(-program +docs/cli.md):\n%s", d)
	}
	for _, k := range []snapshot.Kind{snapshot.KindFailed, snapshot.KindInvalid, snapshot.KindPartial, snapshot.KindNotFound, snapshot.KindExists,
		snapshot.KindState, snapshot.KindUnreachable, snapshot.KindUnsupported, snapshot.KindDevice, snapshot.KindCorrupt, snapshot.KindIncompatible,
		snapshot.KindNoSpace, snapshot.KindUncloneable} {
		n := 0
		for _, e := range exitCodes() {
			if slices.Contains(e.kinds, k) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("kind %s has %d exit codes", k, n)
		}
	}
}

// TestExamples arranges every example of every command's help.
func TestExamples(t *testing.T) {
	c := fakeApp().cli()
	seen := 0
	for cmd := range allCommands(c.Commands) {
		for _, b := range blocksOf(cmd.Description) {
			if b.kind == heading {
				break
			}
			if b.kind != literal {
				continue
			}
			for line := range strings.SplitSeq(b.text, "\n") {
				line, _, _ = strings.Cut(line, " |")
				line, _, _ = strings.Cut(line, " > ")
				line, _, _ = strings.Cut(line, " $(")
				line = strings.TrimSuffix(strings.TrimPrefix(line, "source <("), ")")
				words := strings.Fields(line)
				if len(words) == 0 || words[0] != "snapd-ctr" {
					t.Errorf("%s: %q is no example", cmd.Name, line)
					continue
				}
				seen++
				if strings.Contains(b.text, "$(") && words[1] == "rm" {
					words = append(words, "x")
				}
				if _, err := arrange(fakeApp().cli(), words[1:]); err != nil {
					t.Errorf("%s: %q: %v", cmd.Name, line, err)
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d examples", seen)
	}
}

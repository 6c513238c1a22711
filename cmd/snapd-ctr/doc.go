package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"
)

// The Description of a command is written in a markup of three things, so that help, man pages and Markdown come from
// one text: paragraphs stand between empty lines, a paragraph with four blanks before its first line is shown as it is, and
// a line in capitals is a heading.

// block is one piece of a description.
type block struct {
	kind blockKind
	text string
}

type blockKind int

const (
	paragraph blockKind = iota
	literal
	heading
)

func blocksOf(description string) []block {
	var bs []block
	for part := range strings.SplitSeq(description, "\n\n") {
		switch {
		case strings.HasPrefix(part, "    "):
			lines := strings.Split(part, "\n")
			for i := range lines {
				lines[i] = strings.TrimPrefix(lines[i], "    ")
			}
			bs = append(bs, block{literal, strings.Join(lines, "\n")})
		case part != "" && strings.IndexFunc(part, unicode.IsLower) < 0:
			bs = append(bs, block{heading, part})
		case part != "":
			bs = append(bs, block{paragraph, strings.ReplaceAll(part, "\n", " ")})
		}
	}
	return bs
}

// exitStatus is the last section of a command's description: the codes that every command can have, and those given.
func exitStatus(codes ...int) string {
	codes = append(codes, codeOK, 1, codeUsage, codeInterrupted)
	var b strings.Builder
	b.WriteString("\n\nEXIT STATUS\n\n")
	for _, e := range exitCodes() {
		if slices.Contains(codes, e.code) {
			fmt.Fprintf(&b, "    %-4d %s\n", e.code, e.meaning)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// flagDoc is a flag as documentation shows it.
type flagDoc struct {
	names string // "--count N, -n N"
	usage string
	extra string // default and environment variable, or ""
}

func flagDocs(flags []cli.Flag) []flagDoc {
	var ds []flagDoc
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok || isHidden(f) {
			continue
		}
		usage, placeholder := unquote(d.GetUsage())
		var names []string
		for _, n := range f.Names() {
			dashes := "--"
			if len(n) == 1 {
				dashes = "-"
			}
			if d.TakesValue() {
				n += " " + placeholder
			}
			names = append(names, dashes+n)
		}
		ds = append(ds, flagDoc{names: strings.Join(names, ", "), usage: usage, extra: extraOf(f, d)})
	}
	return ds
}

func isHidden(f cli.Flag) bool {
	v, ok := f.(cli.VisibleFlag)
	return ok && !v.IsVisible()
}

// unquote takes the back quotes off the placeholder in a usage text, and returns both.
func unquote(usage string) (text, placeholder string) {
	before, rest, ok := strings.Cut(usage, "`")
	if !ok {
		return usage, "VALUE"
	}
	placeholder, after, _ := strings.Cut(rest, "`")
	return before + placeholder + after, placeholder
}

func extraOf(f cli.Flag, d cli.DocGenerationFlag) string {
	var parts []string
	if text := defaultOf(f, d); text != "" {
		parts = append(parts, "default: "+text)
	}
	if env := d.GetEnvVars(); len(env) > 0 {
		parts = append(parts, "environment: "+strings.Join(env, ", "))
	}
	return strings.Join(parts, "; ")
}

// defaultOf returns the default as declared; the library would show what the environment says.
func defaultOf(f cli.Flag, d cli.DocGenerationFlag) string {
	switch f := f.(type) {
	case *cli.StringFlag:
		if f.DefaultText == "" {
			return f.Value
		}
		return f.DefaultText
	case *cli.BoolFlag, *cli.StringSliceFlag:
		return ""
	case *cli.GenericFlag:
		if f.DefaultText != "" {
			return f.DefaultText
		}
		return f.Value.String()
	case *cli.DurationFlag:
		return strings.TrimSuffix(f.Value.String(), "0s")
	}
	return d.GetDefaultText()
}

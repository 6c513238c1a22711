package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// writeMarkdown prints the reference: the second part of docs/cli.md.
func writeMarkdown(w io.Writer, app *cli.App) error {
	fmt.Fprint(w, "## Commands\n\n| command | |\n|---|---|\n")
	for _, c := range app.Commands {
		if !c.Hidden {
			fmt.Fprintf(w, "| [%s](#%s-%s) | %s |\n", c.Name, app.Name, c.Name, cell(c.Usage))
		}
	}
	fmt.Fprint(w, "\n### Flags of all commands\n\n")
	markdownFlags(w, app.Flags)
	for _, c := range app.Commands {
		if !c.Hidden {
			markdownCommand(w, app, c, []string{c.Name})
		}
	}
	fmt.Fprint(w, "\n## Environment\n\n| variable | flag | default | meaning |\n|---|---|---|---|\n")
	for _, v := range variables(app) {
		fmt.Fprintf(w, "| `%s` | `--%s` | %s | %s |\n", v.name, v.flag, cell(v.standard), cell(v.usage))
	}
	fmt.Fprint(w, "\n## Exit codes\n\n| code | kind of error | meaning |\n|---|---|---|\n")
	for _, e := range exitCodes() {
		var kinds []string
		for _, k := range e.kinds {
			kinds = append(kinds, "`"+string(k)+"`")
		}
		if _, err := fmt.Fprintf(w, "| %d | %s | %s |\n", e.code, strings.Join(kinds, ", "), cell(e.meaning)); err != nil {
			return err
		}
	}
	return nil
}

func markdownCommand(w io.Writer, app *cli.App, c *cli.Command, path []string) {
	full := strings.Join(append([]string{app.Name}, path...), " ")
	fmt.Fprintf(w, "\n##%s %s\n\n%s.\n\n    %s\n", strings.Repeat("#", len(path)), full, sentence(c.Usage),
		strings.TrimPrefix(usageLine(app, c, path), "usage: "))
	for i, b := range blocksOf(c.Description) {
		if b.kind == heading {
			break // exit codes have a table of their own
		}
		switch b.kind {
		case literal:
			if i == 0 {
				fmt.Fprint(w, "\nFor example:\n")
			}
			fmt.Fprintf(w, "\n```sh\n%s\n```\n", b.text)
		case paragraph:
			fmt.Fprintf(w, "\n%s\n", b.text)
		}
	}
	if len(c.Flags) > 0 {
		fmt.Fprintln(w)
		markdownFlags(w, c.Flags)
	}
	for _, sub := range c.Subcommands {
		markdownCommand(w, app, sub, append(path[:len(path):len(path)], sub.Name))
	}
}

func markdownFlags(w io.Writer, flags []cli.Flag) {
	fmt.Fprint(w, "| flag | |\n|---|---|\n")
	for _, d := range flagDocs(flags) {
		usage := cell(d.usage)
		if d.extra != "" {
			usage += " (" + cell(d.extra) + ")"
		}
		fmt.Fprintf(w, "| `%s` | %s |\n", d.names, usage)
	}
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// cell quotes what would end a cell of a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

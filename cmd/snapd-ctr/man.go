package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

type manOptions struct{ markdown bool }

// newManCommand is for those who package the program.
func newManCommand(a *app) *cli.Command {
	var o manOptions
	return &cli.Command{
		Name:      "man",
		Hidden:    true,
		Usage:     "write the manual pages to a directory",
		ArgsUsage: "[DIR]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "markdown", Destination: &o.markdown, Usage: "print the reference as Markdown instead"},
		},
		Description: `    snapd-ctr man /usr/local/share/man/man1` + exitStatus(),
		Action:      a.do(func(_ context.Context, args []string) error { return runMan(a, &o, args) }),
	}
}

func runMan(a *app, o *manOptions, args []string) error {
	c := a.cli()
	switch {
	case o.markdown && len(args) == 0:
		return writeMarkdown(a.stdout, c)
	case o.markdown:
		return usagef("unexpected argument %q", args[0])
	case len(args) == 0:
		return usagef("DIR is missing").hinted("usage: snapd-ctr man DIR")
	}
	write := func(name string, page func(io.Writer)) error {
		var b strings.Builder
		page(&b)
		return os.WriteFile(filepath.Join(args[0], name+".1"), []byte(b.String()), 0o644)
	}
	if err := write(c.Name, func(w io.Writer) { writeMainPage(w, c) }); err != nil {
		return err
	}
	for _, cmd := range c.Commands {
		if cmd.Hidden {
			continue
		}
		if err := write(c.Name+"-"+cmd.Name, func(w io.Writer) { writeCommandPage(w, c, cmd) }); err != nil {
			return err
		}
	}
	return nil
}

func writeMainPage(w io.Writer, app *cli.App) {
	pageHead(w, app.Name, app.Usage)
	fmt.Fprintf(w, ".SH SYNOPSIS\n%s\n", roff(strings.TrimPrefix(usageLine(app, nil, nil), "usage: ")))
	fmt.Fprint(w, ".SH EXAMPLES\n.nf\n")
	for _, line := range overviewExample() {
		fmt.Fprintln(w, roff(line))
	}
	fmt.Fprint(w, ".fi\n.SH COMMANDS\n")
	for _, c := range app.Commands {
		if !c.Hidden {
			fmt.Fprintf(w, ".TP\n.BR %s\\-%s (1)\n%s\n", roff(app.Name), roff(c.Name), roff(c.Usage))
		}
	}
	pageFlags(w, "GLOBAL FLAGS", app.Flags)
	fmt.Fprint(w, ".SH ENVIRONMENT\n")
	for _, v := range variables(app) {
		fmt.Fprintf(w, ".TP\n.B %s\nthe same as \\-\\-%s\n", roff(v.name), roff(v.flag))
	}
	fmt.Fprint(w, ".SH EXIT STATUS\n")
	for _, e := range exitCodes() {
		fmt.Fprintf(w, ".TP\n.B %d\n%s\n", e.code, roff(e.meaning))
	}
}

func writeCommandPage(w io.Writer, app *cli.App, cmd *cli.Command) {
	pageHead(w, app.Name+"-"+cmd.Name, cmd.Usage)
	path := []string{cmd.Name}
	fmt.Fprintf(w, ".SH SYNOPSIS\n%s\n.SH DESCRIPTION\n", roff(strings.TrimPrefix(usageLine(app, cmd, path), "usage: ")))
	pageBody(w, cmd)
	for _, sub := range cmd.Subcommands {
		fmt.Fprintf(w, ".SH %s\n%s: %s\n", roff(strings.ToUpper(sub.Name)),
			roff(strings.TrimPrefix(usageLine(app, sub, append(path, sub.Name)), "usage: ")), roff(sub.Usage))
		pageBody(w, sub)
	}
	fmt.Fprintf(w, ".SH SEE ALSO\n.BR %s (1)\n", roff(app.Name))
}

// pageBody writes a command's description with its flags before the section on exit status.
func pageBody(w io.Writer, cmd *cli.Command) {
	flags := func() {
		pageFlags(w, "FLAGS", cmd.Flags)
	}
	for _, b := range blocksOf(cmd.Description) {
		switch b.kind {
		case heading:
			if flags != nil {
				flags()
				flags = nil
			}
			fmt.Fprintf(w, ".SS %s\n", roff(b.text))
		case literal:
			fmt.Fprintf(w, ".PP\n.nf\n%s\n.fi\n", roff(b.text))
		case paragraph:
			fmt.Fprintf(w, ".PP\n%s\n", roff(b.text))
		}
	}
	if flags != nil {
		flags()
	}
}

func pageHead(w io.Writer, name, usage string) {
	fmt.Fprintf(w, ".TH \"%s\" 1 \"\" \"%s\" \"snapd-ctr\"\n.SH NAME\n%s \\- %s\n",
		strings.ToUpper(roff(name)), roff(version), roff(name), roff(usage))
}

func pageFlags(w io.Writer, title string, flags []cli.Flag) {
	docs := flagDocs(flags)
	if len(docs) == 0 {
		return
	}
	fmt.Fprintf(w, ".SS %s\n", title)
	for _, d := range docs {
		fmt.Fprintf(w, ".TP\n.B %s\n%s", roff(d.names), roff(d.usage))
		if d.extra != "" {
			fmt.Fprintf(w, " (%s)", roff(d.extra))
		}
		fmt.Fprintln(w)
	}
}

// roff quotes what the formatter would take for its own.
func roff(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	s = strings.ReplaceAll(s, "…", "...")
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

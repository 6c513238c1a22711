package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

func newHelpCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "help",
		Usage:     "explain a command, or a topic: exit-codes, environment",
		ArgsUsage: "[COMMAND] [SUBCOMMAND]",
		Description: `    snapd-ctr help clone
    snapd-ctr help exit-codes` + exitStatus(),
		Action: a.do(func(_ context.Context, args []string) error { return runHelp(a, args) }),
	}
}

func runHelp(a *app, args []string) error {
	c := a.cli()
	switch {
	case len(args) == 0:
		return writeHelp(a.stdout, c, nil, nil)
	case args[0] == "exit-codes" && len(args) == 1:
		return writeExitCodes(a.stdout)
	case args[0] == "environment" && len(args) == 1:
		return writeEnvironment(a.stdout, c)
	}
	ar, err := arrange(c, append(args[:len(args):len(args)], "--help"))
	if err != nil {
		return err
	}
	return writeHelp(a.stdout, c, ar.command, ar.path)
}

// writeHelp explains a command, or the program where cmd is nil.
func writeHelp(w io.Writer, app *cli.App, cmd *cli.Command, path []string) error {
	if cmd == nil {
		return writeOverview(w, app)
	}
	fmt.Fprintf(w, "%s: %s\n\n%s\n", strings.Join(append([]string{app.Name}, path...), " "), cmd.Usage, usageLine(app, cmd, path))
	blocks := blocksOf(cmd.Description)
	last := len(blocks)
	for i, b := range blocks {
		if b.kind == heading {
			last = i
			break
		}
	}
	writeBlocks(w, blocks[:last])
	if err := writeCommandList(w, cmd.Subcommands); err != nil {
		return err
	}
	if err := writeFlagList(w, "FLAGS", cmd.Flags); err != nil {
		return err
	}
	writeBlocks(w, blocks[last:])
	_, err := fmt.Fprintf(w, "\nFlags of all commands: %s --help. All exit codes: %s help exit-codes\n", app.Name, app.Name)
	return err
}

// usageLine is how a command is called; c is nil for the program as a whole.
func usageLine(app *cli.App, c *cli.Command, path []string) string {
	words := append([]string{"usage:", app.Name}, path...)
	if c == nil {
		return strings.Join(append(words, "[flags]", "COMMAND"), " ")
	}
	if len(c.Flags) > 0 {
		words = append(words, "[flags]")
	}
	if len(c.Subcommands) > 0 {
		words = append(words, "COMMAND")
	}
	if c.ArgsUsage != "" {
		words = append(words, c.ArgsUsage)
	}
	return strings.Join(words, " ")
}

func writeOverview(w io.Writer, app *cli.App) error {
	fmt.Fprintf(w, "%s: %s\n\n%s\n\n", app.Name, app.Usage, usageLine(app, nil, nil))
	for _, line := range overviewExample() {
		fmt.Fprintf(w, "    %s\n", line)
	}
	if err := writeCommandList(w, app.Commands); err != nil {
		return err
	}
	if err := writeFlagList(w, "GLOBAL FLAGS", app.Flags); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nMore: %[1]s help COMMAND, %[1]s help exit-codes, %[1]s help environment\n", app.Name)
	return err
}

func overviewExample() []string {
	return []string{
		"snapd-ctr run --name web --rootfs /srv/rootfs -- python3 -m http.server 8080",
		"snapd-ctr snapshot web warm --ready http://:8080/ --warm 3",
		"snapd-ctr clone warm -n 20",
	}
}

func writeBlocks(w io.Writer, blocks []block) {
	for _, b := range blocks {
		text := b.text
		switch b.kind {
		case literal:
			text = "    " + strings.ReplaceAll(text, "\n", "\n    ")
		case paragraph:
			text = wrap(text, 96)
		}
		fmt.Fprintf(w, "\n%s\n", text)
	}
}

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case column == 0:
		case column+1+len(word) > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

func writeCommandList(w io.Writer, cmds []*cli.Command) error {
	if len(cmds) == 0 {
		return nil
	}
	fmt.Fprint(w, "\nCOMMANDS\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, c := range cmds {
		if !c.Hidden {
			fmt.Fprintf(t, "    %s\t%s\n", c.Name, c.Usage)
		}
	}
	return t.Flush()
}

func writeFlagList(w io.Writer, title string, flags []cli.Flag) error {
	docs := flagDocs(flags)
	if len(docs) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, d := range docs {
		usage := d.usage
		if d.extra != "" {
			usage += " (" + d.extra + ")"
		}
		fmt.Fprintf(t, "    %s\t%s\n", d.names, usage)
	}
	return t.Flush()
}

// writeEnvironment prints the environment variables, which are those of the global flags.
func writeEnvironment(w io.Writer, app *cli.App) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VARIABLE\tFLAG\tDEFAULT\tMEANING")
	for _, v := range variables(app) {
		fmt.Fprintf(t, "%s\t--%s\t%s\t%s\n", v.name, v.flag, v.standard, v.usage)
	}
	return t.Flush()
}

// variable is an environment variable that stands for a flag.
type variable struct{ name, flag, standard, usage string }

func variables(app *cli.App) []variable {
	var vs []variable
	for _, f := range app.Flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage, _ := unquote(d.GetUsage())
		for _, name := range d.GetEnvVars() {
			vs = append(vs, variable{name, f.Names()[0], defaultOf(f, d), usage})
		}
	}
	return vs
}

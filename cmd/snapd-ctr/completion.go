package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// completeCommand is the hidden command that the scripts call with the words before the cursor; the last word is the
// one to be completed and may be empty. It prints one candidate a line.
const completeCommand = "__complete"

func newCompletionCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script for a shell: bash, zsh, fish",
		ArgsUsage: "SHELL",
		Description: `    source <(snapd-ctr completion bash)
    snapd-ctr completion zsh > "${fpath[1]}/_snapd-ctr"
    snapd-ctr completion fish > ~/.config/fish/completions/snapd-ctr.fish` + exitStatus(),
		Action: a.do(func(_ context.Context, args []string) error { return runCompletion(a, args[0]) }),
	}
}

func runCompletion(a *app, shell string) error {
	script, ok := completionScripts()[shell]
	if !ok {
		return usagef("no completion for %q", shell).hinted("SHELL is bash, zsh or fish")
	}
	_, err := fmt.Fprint(a.stdout, strings.ReplaceAll(script, "COMPLETE", completeCommand))
	return err
}

func completionScripts() map[string]string {
	return map[string]string{
		"bash": `_snapd_ctr() {
    local IFS=$'\n'
    COMPREPLY=($(snapd-ctr COMPLETE -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        compopt -o default 2>/dev/null
    fi
}
complete -F _snapd_ctr snapd-ctr
`,
		"zsh": `#compdef snapd-ctr
_snapd_ctr() {
    local -a found
    found=("${(@f)$(snapd-ctr COMPLETE -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
if [[ "${funcstack[1]}" == "_snapd-ctr" ]]; then
    _snapd_ctr "$@"
else
    compdef _snapd_ctr snapd-ctr
fi
`,
		"fish": `function __snapd_ctr_complete
    set -l words (commandline -opc) (commandline -ct)
    snapd-ctr COMPLETE -- $words[2..-1] 2>/dev/null
end
complete -c snapd-ctr -a '(__snapd_ctr_complete)'
`,
	}
}

func newCompleteCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      completeCommand,
		Hidden:    true,
		Usage:     "print what could stand at the cursor",
		ArgsUsage: "[WORD...]",
		Action: a.do(func(ctx context.Context, args []string) error {
			for _, s := range a.complete(ctx, args) {
				fmt.Fprintln(a.stdout, s)
			}
			return nil
		}),
	}
}

// complete returns what the last of words could become. It keeps quiet about whatever is wrong with the others.
func (a *app) complete(ctx context.Context, words []string) []string {
	if len(words) == 0 {
		return nil
	}
	c := a.cli()
	p := parser{app: c, args: slices.Clone(words[:len(words)-1]), global: flagTable(c.Flags)}
	_ = p.parse()
	last := words[len(words)-1]
	var found []string
	for _, s := range a.candidates(ctx, &p, words[:len(words)-1], last) {
		if strings.HasPrefix(s, last) {
			found = append(found, s)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (a *app) candidates(ctx context.Context, p *parser, before []string, last string) []string {
	if n := len(before); n > 0 && p.looksLikeFlag(before[n-1]) {
		if f := p.lookup(strings.TrimLeft(before[n-1], "-")); f != nil && !isBool(f) {
			return valuesOf(f)
		}
	}
	switch {
	case strings.HasPrefix(last, "-") && p.out.command != nil:
		return flagNames(append(p.out.command.Flags[:len(p.out.command.Flags):len(p.out.command.Flags)], p.app.Flags...))
	case strings.HasPrefix(last, "-"):
		return flagNames(p.app.Flags)
	case p.out.command == nil:
		return commandNames(p.app.Commands)
	case p.needsCommand():
		return commandNames(p.out.command.Subcommands)
	}
	return a.arguments(ctx, p)
}

// arguments returns candidates for a positional argument, which ArgsUsage names.
func (a *app) arguments(ctx context.Context, p *parser) []string {
	var expected []string
	for word := range strings.FieldsSeq(p.out.command.ArgsUsage) {
		if word != "[--]" {
			expected = append(expected, word)
		}
	}
	i := len(p.positional)
	if n := len(expected); n > 0 && i >= n && strings.Contains(expected[n-1], "...") {
		i = n - 1
	}
	if i >= len(expected) {
		return nil
	}
	switch strings.Trim(expected[i], "[].") {
	case "CONTAINER":
		return a.ask(ctx, containerNames)
	case "SNAPSHOT", "A", "B":
		return a.ask(ctx, snapshotNames)
	case "SHELL":
		return []string{"bash", "zsh", "fish"}
	}
	if p.out.command.Name == "help" {
		return append(commandNames(p.app.Commands), "exit-codes", "environment")
	}
	return nil
}

// ask opens the service for a moment; a shell does not wait for long.
func (a *app) ask(ctx context.Context, f func(context.Context, api.Service) []string) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	svc, err := a.service(ctx)
	if err != nil {
		return nil
	}
	defer svc.Close()
	return f(ctx, svc)
}

func containerNames(ctx context.Context, svc api.Service) []string {
	list, err := svc.Containers(ctx, true)
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return names
}

func snapshotNames(ctx context.Context, svc api.Service) []string {
	list, err := svc.Snapshots(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Names...)
	}
	return names
}

func commandNames(cmds []*cli.Command) []string {
	var names []string
	for _, c := range cmds {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

func flagNames(flags []cli.Flag) []string {
	names := []string{"--help"}
	for _, f := range flags {
		names = append(names, "--"+f.Names()[0])
	}
	return names
}

func valuesOf(f cli.Flag) []string {
	if g, ok := f.(*cli.GenericFlag); ok {
		if c, ok := g.Value.(*choice); ok {
			return c.among
		}
	}
	return nil
}

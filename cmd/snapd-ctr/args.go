package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arranged is a command line in the one order that the library reads correctly: global flags, command, its flags,
// "--", positional arguments. Each flag is written --NAME=VALUE with its first name.
type arranged struct {
	argv    []string
	path    []string     // names of the command and its subcommand
	command *cli.Command // nil where the line names none
	help    bool         // -h or --help was given
	json    bool         // --json or its like was given
	version bool         // --version was given
}

// arrange checks a command line against what app declares, and puts it in order. The library stops at the first
// positional argument, so that it would ignore what follows; here flags count wherever they stand, except after "--"
// and, for the commands that take a program to run, after the first positional argument.
func arrange(app *cli.App, args []string) (arranged, error) {
	p := parser{app: app, args: args, global: flagTable(app.Flags)}
	err := p.parse()
	if err == nil && p.out.command != nil && !p.out.help {
		err = p.checkCount()
	}
	if p.out.command != nil {
		p.out.argv = slices.Concat(p.globals, p.out.path)
		p.out.argv = append(p.out.argv, p.locals...)
		p.out.argv = append(append(p.out.argv, "--"), p.positional...)
	}
	return p.out, err
}

type parser struct {
	app        *cli.App
	args       []string // still to be read
	global     map[string]cli.Flag
	local      map[string]cli.Flag
	globals    []string
	locals     []string
	positional []string
	out        arranged
}

func (p *parser) parse() error {
	for len(p.args) > 0 {
		a := p.args[0]
		p.args = p.args[1:]
		var err error
		switch {
		case a == "--":
			return p.rest()
		case a == "-h" || a == "--help":
			p.out.help = true
			return nil
		case strings.HasPrefix(a, "--"):
			err = p.long(a[2:])
		case strings.HasPrefix(a, "-") && len(a) > 1:
			err = p.short(a[1:])
		default:
			err = p.word(a)
			if err == nil && len(p.positional) == 1 && takesProgram(p.out.command) {
				return p.rest()
			}
		}
		if err != nil || p.out.version {
			return err
		}
	}
	if p.out.command != nil && len(p.out.command.Subcommands) > 0 {
		return usagef("a command is missing").hinted("one of: %s", strings.Join(commandNames(p.out.command.Subcommands), ", "))
	}
	return nil
}

// rest takes all arguments left as positional ones; before a command is known the first of them names it.
func (p *parser) rest() error {
	for p.needsCommand() && len(p.args) > 0 {
		a := p.args[0]
		p.args = p.args[1:]
		if err := p.word(a); err != nil {
			return err
		}
	}
	if p.needsCommand() {
		return usagef("a command is missing").hinted("see: snapd-ctr --help")
	}
	p.positional = append(p.positional, p.args...)
	p.args = nil
	return nil
}

func (p *parser) needsCommand() bool {
	return p.out.command == nil || len(p.out.command.Subcommands) > 0
}

// word takes an argument that is not a flag: the name of a command, or a positional argument.
func (p *parser) word(a string) error {
	if !p.needsCommand() {
		p.positional = append(p.positional, a)
		return nil
	}
	among := p.app.Commands
	if p.out.command != nil {
		among = p.out.command.Subcommands
	}
	for _, c := range among {
		if c.HasName(a) {
			p.out.command, p.out.path, p.local = c, append(p.out.path, c.Name), flagTable(c.Flags)
			return nil
		}
	}
	err := usagef("unknown command %q", a)
	if s := nearest(a, commandNames(among)); s != "" {
		return err.hinted("did you mean %q?", s)
	}
	return err.hinted("one of: %s", strings.Join(commandNames(among), ", "))
}

func (p *parser) long(a string) error {
	name, value, given := strings.Cut(a, "=")
	if name == "version" && p.out.command == nil && !given {
		p.out.version = true
		return nil
	}
	f, err := p.find(name, len(name) > 1)
	if err != nil {
		return err
	}
	if !given {
		if value, err = p.value(f, "--"+name); err != nil {
			return err
		}
	}
	return p.add(f, "--"+name, value)
}

// short takes a group of one-letter flags: -it, -n3, -n=3, -n 3.
func (p *parser) short(group string) error {
	if word, _, _ := strings.Cut(group, "="); len(word) > 1 && p.lookup(word) != nil {
		return usagef("unknown flag -%s", word).hinted("did you mean --%s?", word)
	}
	for group != "" {
		name := group[:1]
		group = group[1:]
		f, err := p.find(name, false)
		if err != nil {
			return err
		}
		value := ""
		switch {
		case !isBool(f) && group != "":
			value, group = strings.TrimPrefix(group, "="), ""
		case strings.HasPrefix(group, "="):
			value, group = group[1:], ""
		default:
			if value, err = p.value(f, "-"+name); err != nil {
				return err
			}
		}
		if err := p.add(f, "-"+name, value); err != nil {
			return err
		}
	}
	return nil
}

// value returns the value of a flag that came without one. What is itself a flag is not taken for a value: a value
// that looks like one is written --name=value.
func (p *parser) value(f cli.Flag, shown string) (string, error) {
	if isBool(f) {
		return "true", nil
	}
	if len(p.args) == 0 || p.args[0] == "--" || p.looksLikeFlag(p.args[0]) {
		return "", usagef("flag %s needs a value", shown).hinted("%s", usageLine(p.app, p.out.command, p.out.path))
	}
	v := p.args[0]
	p.args = p.args[1:]
	return v, nil
}

func (p *parser) looksLikeFlag(a string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
	switch {
	case strings.HasPrefix(a, "--"):
		return len(name) > 1 && p.lookup(name) != nil || name == "help"
	case strings.HasPrefix(a, "-"):
		return len(a) == 2 && p.lookup(name) != nil
	}
	return false
}

func (p *parser) lookup(name string) cli.Flag {
	if f := p.local[name]; f != nil {
		return f
	}
	return p.global[name]
}

func (p *parser) find(name string, long bool) (cli.Flag, error) {
	if f := p.lookup(name); f != nil {
		return f, nil
	}
	if !long {
		return nil, usagef("unknown flag -%s", name)
	}
	err := usagef("unknown flag --%s", name)
	known := p.app.Flags
	if p.out.command != nil {
		known = append(p.out.command.Flags[:len(p.out.command.Flags):len(p.out.command.Flags)], known...)
	}
	if s := nearest("--"+name, flagNames(known)); s != "" {
		return nil, err.hinted("did you mean %s?", s)
	}
	return nil, err
}

// add records a flag, having made sure that the library will take its value.
func (p *parser) add(f cli.Flag, shown, value string) error {
	name := f.Names()[0]
	if err := checkValue(f, name, value); err != nil {
		return usagef("%s: %s", shown, err)
	}
	if name == "json" && value != "false" || name == "output" && value == "json" {
		p.out.json = true
	}
	arg := "--" + name + "=" + value
	if p.local[name] == f {
		p.locals = append(p.locals, arg)
	} else {
		p.globals = append(p.globals, arg)
	}
	return nil
}

// checkValue tries a value on a flag set of its own, and says in words what is wrong with it.
func checkValue(f cli.Flag, name, value string) error {
	var err error
	switch g := f.(type) {
	case *cli.GenericFlag:
		return g.Value.Set(value) // ours: the error is in words
	case *cli.BoolFlag:
		err = tryValue(&cli.BoolFlag{Name: name}, name, value)
	case *cli.DurationFlag:
		err = tryValue(&cli.DurationFlag{Name: name}, name, value)
	}
	if err == nil {
		return nil
	}
	switch f.(type) {
	case *cli.BoolFlag:
		return fmt.Errorf("%q is neither true nor false", value)
	case *cli.DurationFlag:
		return fmt.Errorf("%q is not a duration like 30s or 2m", value)
	}
	return fmt.Errorf("%q is not a number", value)
}

func tryValue(f cli.Flag, name, value string) error {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	if err := f.Apply(set); err != nil {
		return err
	}
	return set.Set(name, value)
}

// takesProgram says whether what follows the command's first positional argument belongs to another program.
func takesProgram(c *cli.Command) bool {
	return c != nil && (c.Name == "run" || c.Name == "exec")
}

// checkCount compares the number of positional arguments with the command's ArgsUsage: WORD is required, [WORD] is
// not, and three dots stand for more of them.
func (p *parser) checkCount() error {
	least, most := 0, 0
	var missing string
	for word := range strings.FieldsSeq(p.out.command.ArgsUsage) {
		if word == "[--]" {
			continue
		}
		if !strings.HasPrefix(word, "[") {
			if least == len(p.positional) {
				missing = strings.TrimSuffix(word, "...")
			}
			least++
		}
		if most++; strings.Contains(word, "...") {
			most = len(p.positional) + 1
		}
	}
	usage := usageLine(p.app, p.out.command, p.out.path)
	switch {
	case len(p.positional) < least:
		return usagef("%s is missing", missing).hinted("%s", usage)
	case len(p.positional) > most:
		return usagef("unexpected argument %q", p.positional[most]).hinted("%s", usage)
	}
	return nil
}

func flagTable(flags []cli.Flag) map[string]cli.Flag {
	t := make(map[string]cli.Flag)
	for _, f := range flags {
		for _, n := range f.Names() {
			t[n] = f
		}
	}
	return t
}

func isBool(f cli.Flag) bool {
	_, ok := f.(*cli.BoolFlag)
	return ok
}

// wantsJSON guesses whether a command line asks for JSON that could not be arranged: the error is then reported as JSON.
func wantsJSON(args []string) bool {
	for i, a := range args {
		switch {
		case a == "--":
			return false
		case a == "--json", a == "-ojson", a == "-o=json", a == "--output=json":
			return true
		case (a == "-o" || a == "--output") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

package main

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// TestFlagOrders puts the flags of a command before, between and after its arguments: the line for the library is
// the same.
func TestFlagOrders(t *testing.T) {
	flags := [][]string{{"--ready", "u"}, {"--warm=3"}, {"-q"}, {"--stop"}}
	words := []string{"web", "name"}
	want := []string{"snapshot", "--ready=u", "--warm=3", "--quiet=true", "--stop=true", "--", "web", "name"}
	for first := range len(flags) + 1 {
		for second := first; second <= len(flags); second++ {
			line := []string{"snapshot"}
			line = append(line, slices.Concat(flags[:first]...)...)
			line = append(line, words[0])
			line = append(line, slices.Concat(flags[first:second]...)...)
			line = append(line, words[1])
			line = append(line, slices.Concat(flags[second:]...)...)
			ar, err := arrange(fakeApp().cli(), line)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if d := cmp.Diff(want, ar.argv); d != "" {
				t.Errorf("%q (-want +got):\n%s", line, d)
			}
		}
	}
}

// TestFlagsAreDistinct makes sure that a global flag means the same wherever it stands.
func TestFlagsAreDistinct(t *testing.T) {
	c := fakeApp().cli()
	global := flagTable(c.Flags)
	for cmd := range allCommands(c.Commands) {
		for name := range flagTable(cmd.Flags) {
			if global[name] != nil {
				t.Errorf("%s: --%s is a global flag too", cmd.Name, name)
			}
			if name == "help" || name == "h" {
				t.Errorf("%s: %s is taken", cmd.Name, name)
			}
		}
		if len(cmd.Subcommands) > 0 && len(cmd.Flags) > 0 {
			t.Errorf("%s: a group has no flags of its own", cmd.Name)
		}
	}
}

// FuzzArrange checks that the library, given the arranged line, comes to the command and the arguments that arrange
// says, that arranging twice changes nothing, and that what follows two dashes is never touched.
func FuzzArrange(f *testing.F) {
	for _, line := range []string{
		"clone web -n 3", "clone -n3 web --json", "run --name x --rootfs d -- cmd -flags", "run --rootfs d cmd -x --", "exec -it web -- ls -l",
		"--root /x snapshots --run=/y ls -q", "-- clone web", "rm -f -- -a", "snapshots", "clone --name", "ps -aq=false", "clone - -m 1g -e", "run -e A=1,2 -v a:b",
		"clone help -n 2 count", "help snapshots ls", "clone -h", "--version", "clone x --cpus=.5 --=", "stop -t", "logs -fn5 x", "wait -- -- --",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := strings.Split(text, " ")
		if strings.ContainsRune(text, 0) {
			return // no argument holds a NUL
		}
		a := fakeApp()
		ar, err := arrange(a.cli(), line)
		if err != nil {
			if err.Error() == "" || strings.Contains(err.Error(), "flag provided but not defined") {
				t.Fatalf("%q: %q is no message", line, err)
			}
			return
		}
		if ar.help || ar.version || ar.command == nil {
			return
		}
		again, err := arrange(fakeApp().cli(), ar.argv)
		if err != nil {
			t.Fatalf("%q became %q, which fails: %v", line, ar.argv, err)
		}
		if d := cmp.Diff(ar.argv, again.argv); d != "" {
			t.Fatalf("%q: arranged twice (-once +twice):\n%s", line, d)
		}
		name, args := run(t, a, ar.argv)
		if want := ar.path[len(ar.path)-1]; name != want {
			t.Fatalf("%q: ran %q and not %q", line, name, want)
		}
		if want := ar.argv[slices.Index(ar.argv, "--")+1:]; !slices.Equal(args, want) {
			t.Fatalf("%q: arguments are %q and not %q", line, args, want)
		}
		// The first two dashes that are not a flag's value end the flags: all that follows them arrives as it is, once the
		// command is known.
		if i := slices.Index(line, "--"); i >= 0 && slices.Contains(line[:i], ar.path[len(ar.path)-1]) && !tailOf(args, line[i+1:]) {
			t.Fatalf("%q: %q does not end as the line does", line, args)
		}
	})
}

// run lets the library take an arranged line apart, and returns the command that it comes to and its arguments.
func run(t *testing.T, a *app, argv []string) (name string, args []string) {
	c := a.cli()
	for cmd := range allCommands(c.Commands) {
		if len(cmd.Subcommands) == 0 {
			cmd.Action = func(x *cli.Context) error {
				name, args = cmd.Name, x.Args().Slice()
				return nil
			}
		}
	}
	if err := c.RunContext(context.Background(), append([]string{c.Name}, argv...)); err != nil {
		t.Fatalf("%q: the library says: %v", argv, err)
	}
	return name, args
}

func tailOf(s, tail []string) bool {
	return len(tail) <= len(s) && slices.Equal(s[len(s)-len(tail):], tail)
}

func TestNearest(t *testing.T) {
	words := []string{"clone", "snapshot", "ps", "rm"}
	for in, want := range map[string]string{"clnoe": "clone", "snapshott": "snapshot", "pss": "ps", "ls": "", "xyzzy": "", "": ""} {
		if got := nearest(in, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

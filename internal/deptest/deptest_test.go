package deptest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// list returns the packages of this module as the go command sees them.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Standard,Imports,TestImports,XTestImports", module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// The import rules hold for every package. Tests may reach down further than their package (to a fake, a fixture),
// but not up, and the reserved libraries are reserved for them too.
func TestImportRules(t *testing.T) {
	pkgs := list(t)
	if len(pkgs) < 5 {
		t.Fatalf("go list found %d packages: the test looked in the wrong place", len(pkgs))
	}
	for _, p := range pkgs {
		for _, line := range violations(p.ImportPath, p.Imports) {
			t.Error(line)
		}
		tests := append(slices.Clone(p.TestImports), p.XTestImports...)
		for _, line := range violations(p.ImportPath, tests) {
			t.Errorf("in tests: %s", line)
		}
	}
}

// Every package of the layers' folders is in a layer: a new folder must be given its place.
func TestEveryPackageHasALayer(t *testing.T) {
	for _, p := range list(t) {
		rel, ours := below(p.ImportPath)
		if ours && (strings.HasPrefix(rel, "snapshot/") || strings.HasPrefix(rel, "cmd/")) && levelOf(rel) < 0 {
			t.Errorf("%s is in no layer: add it in rules.go and in the linter's configuration", rel)
		}
	}
}

// The rules see what they are there to see.
func TestRulesCatch(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     string // a piece of the violation, "" for none
	}{
		{"snapshot/store", "golang.org/x/sys/unix", "reserved to internal/sys"},
		{"internal/sys", "golang.org/x/sys/unix", ""},
		{"snapshot/store", "golang.org/x/sys/unixish", ""},
		{"snapshot/api", "github.com/urfave/cli/v2", "reserved to cmd/"},
		{"cmd/snapd-ctr", "github.com/urfave/cli/v2", ""},
		{"cmd/snapd-ctr", "github.com/opencontainers/runc/libcontainer", "reserved to cmd/snapd-ctr-shim"},
		{"cmd/snapd-ctr-shim", "github.com/opencontainers/runc/libcontainer", ""},
		{"snapshot", module + "/internal/sys", ""},
		{"snapshot", module + "/snapshot/store", "a layer above"},
		{"snapshot/store", module + "/snapshot/capture", "a layer above"},
		{"snapshot/capture", module + "/snapshot/store", ""},
		{"snapshot/store", module + "/snapshot/criu", ""},
		{"internal/sys", module + "/snapshot", "a layer above"},
		{"snapshot/api", module + "/cmd/snapd-ctr", "a layer above"},
	} {
		got := strings.Join(violations(module+"/"+c.from, []string{c.to}), "; ")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s imports %s: got %q, want something with %q", c.from, c.to, got, c.want)
		}
	}
}

package deptest

import (
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A test may skip only through a probe, which says what is missing: what `make test` sets up must not be missing in
// silence. The files are found on disk, since the go command leaves out those of other build tags.
func TestSkipsOnlyThroughProbes(t *testing.T) {
	top := filepath.Join("..", "..")
	fset := token.NewFileSet()
	tests := 0
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != top && !ours(name) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, "_test.go") {
			tests++
		}
		rel, err := filepath.Rel(top, name)
		for _, line := range skips(fset, rel, f) {
			t.Error(line)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if tests < 50 {
		t.Fatalf("%d test files: the test looked in the wrong place", tests)
	}
}

// ours says whether a folder can hold packages of this module.
func ours(dir string) bool {
	base := filepath.Base(dir)
	if base == "testdata" || base[0] == '.' || base[0] == '_' {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return errors.Is(err, fs.ErrNotExist)
}

// The rule sees what it is there to see.
func TestSkipsCaught(t *testing.T) {
	for _, c := range []struct {
		name, file, source string
		want               int
	}{
		{"each kind", "snapshot/x_test.go", `func TestX(t *testing.T) { t.Skip("x"); t.Skipf("x"); t.SkipNow() }`, 3},
		{"in a fuzz target", "snapshot/x_test.go", `func FuzzX(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) { t.Skip() }) }`, 1},
		{"through a field", "snapshot/x_test.go", `func (h *host) no() { h.t.Skip() }`, 1},
		{"as a value", "snapshot/x_test.go", `func TestX(t *testing.T) { f := t.SkipNow; f() }`, 1},
		{"in support of tests", "internal/testx/x.go", `import "testing"; func Need(t testing.TB) { t.Skipf("no x") }`, 1},
		{"a word", "snapshot/x_test.go", `// t.Skip()
			const text = "t.Skip()"`, 0},
		{"a relative", "snapshot/x_test.go", `var _ = fs.SkipDir; func (r *recorder) Skipf(string, ...any) {}`, 0},
		{"not about tests", "snapshot/x.go", `func f(d *decoder) { d.Skip() }`, 0},
		{"through a probe", "snapshot/x_test.go", `func TestX(t *testing.T) { probetest.Need(t, "tmpfs") }`, 0},
		{"in the probes", skipper + "/x.go", `import "testing"; func Need(t testing.TB) { t.Skipf("no x") }`, 0},
		{"below the probes", skipper + "/other/x_test.go", `func TestX(t *testing.T) { t.Skip() }`, 1},
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, c.file, "package x; "+c.source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := skips(fset, c.file, f); len(got) != c.want {
			t.Errorf("%s: found %q, want %d", c.name, got, c.want)
		}
	}
}

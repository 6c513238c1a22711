package deptest

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"strconv"
	"strings"
)

// skipper is the one package whose code may skip a test.
const skipper = "internal/probe/probetest"

// skips returns where a file, named by its path below the module, skips a test: one line each. Whatever is selected
// under a name of testing's counts, called or not, on a T, a B, an F or something that holds one.
func skips(fset *token.FileSet, file string, f *ast.File) []string {
	if path.Dir(file) == skipper || !strings.HasSuffix(file, "_test.go") && !imports(f, "testing") {
		return nil
	}
	var out []string
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			switch s.Sel.Name {
			case "Skip", "Skipf", "SkipNow":
				out = append(out, fmt.Sprintf("%s:%d: %s: a test may skip only through a probe: see package %s",
					file, fset.Position(s.Pos()).Line, s.Sel.Name, skipper))
			}
		}
		return true
	})
	return out
}

func imports(f *ast.File, pkg string) bool {
	for _, i := range f.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil && p == pkg {
			return true
		}
	}
	return false
}

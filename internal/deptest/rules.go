package deptest

import (
	"fmt"
	"slices"
	"strings"
)

// module is the path of this module.
const module = "github.com/snapd-ctr/snapd-ctr"

// A layer is a set of packages, named by their paths below the module, that may import packages of their own layer
// and of those below it. "internal/..." stands for everything below internal.
type layer []string

// layers is the order of the packages, top first. Inside one layer imports are the compiler's business (no cycles).
func layers() []layer {
	return []layer{
		{"cmd/..."},
		{"snapshot/api/..."},
		{"snapshot/pool/...", "snapshot/migrate/..."},
		{"snapshot/restore/...", "snapshot/template/...", "snapshot/capture/..."},
		{"snapshot/sandbox/...", "snapshot/criu/...", "snapshot/store/...", "snapshot/runtime/...", "snapshot/image/...",
			"snapshot/spec/...", "snapshot/shim/...", "snapshot/pager/...", "plugins/...", "vmgenid/..."},
		{"snapshot"},
		{"internal/..."},
	}
}

// A reserve says that only some packages of this module may import a package (or one below it) of somebody else.
type reserve struct {
	path string
	only []string
}

func reserves() []reserve {
	return []reserve{
		{"golang.org/x/sys/unix", []string{"internal/sys/..."}},
		{"github.com/urfave/cli", []string{"cmd/..."}},
		{"github.com/opencontainers/runc", []string{"cmd/snapd-ctr-shim/..."}},
		{"github.com/ebitengine/purego", []string{"cmd/snapd-ctr-device-nvidia/...", "cmd/snapd-ctr-device-amd/...", "plugins/nvidia/...", "plugins/amd/..."}},
		{"github.com/NVIDIA/go-nvml", []string{"cmd/snapd-ctr-device-nvidia/...", "plugins/nvidia/..."}},
	}
}

// violations returns what is wrong with the package pkg importing imports: one line each.
func violations(pkg string, imports []string) []string {
	var out []string
	from, ours := below(pkg)
	if !ours {
		return nil
	}
	level := levelOf(from)
	for _, imp := range imports {
		to, ours := below(imp)
		if ours {
			if target := levelOf(to); level >= 0 && target >= 0 && target < level {
				out = append(out, fmt.Sprintf("%s imports %s, which is a layer above it", from, to))
			}
			continue
		}
		for _, r := range reserves() {
			if (imp == r.path || strings.HasPrefix(imp, r.path+"/")) && !matchesAny(r.only, from) {
				out = append(out, fmt.Sprintf("%s imports %s, which is reserved to %s", from, imp, strings.Join(r.only, ", ")))
			}
		}
	}
	return out
}

// below returns the path of one of our packages relative to the module, and whether it is ours.
func below(pkg string) (string, bool) {
	rel, ok := strings.CutPrefix(pkg, module)
	if !ok || (rel != "" && rel[0] != '/') {
		return "", false
	}
	return strings.TrimPrefix(rel, "/"), true
}

// levelOf returns the index of the layer that holds rel, or -1 for a package in none of them (demo, bench, tests).
func levelOf(rel string) int {
	return slices.IndexFunc(layers(), func(l layer) bool { return matchesAny(l, rel) })
}

func matchesAny(patterns []string, rel string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		tree, ok := strings.CutSuffix(p, "/...")
		return rel == tree || ok && strings.HasPrefix(rel, tree+"/")
	})
}

package probe

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Template returns those probes of [Host] that the template engine cannot do without. Where one says no, CRIU makes all clones.
func Template() []Probe {
	return slices.DeleteFunc(Host(), func(p Probe) bool { return !p.Template })
}

// forTemplates marks a probe as one of the template engine's.
func forTemplates(p Probe) Probe {
	p.Template = true
	return p
}

// templates returns the probes of what the template engine alone needs.
func templates() []Probe {
	const without = "; without it clones are made by CRIU"
	return []Probe{
		forTemplates(try("clone-parent", "forks of templates, which are children of the shim in a pid namespace of their own",
			"use a kernel of 5.5 or newer, run with CAP_SYS_ADMIN, and let no seccomp filter refuse clone3"+without, false, sys.TryCloneParent)),
		forTemplates(try("detached-mounts", "mounts that are made before there is a fork of a template for them",
			"use a kernel of 5.12 or newer, and let no seccomp filter refuse open_tree and move_mount"+without, false, tryDetachedMounts)),
		try("nested-mounts", "mounts that are put together before there is a fork of a template for them",
			"use a kernel of 6.15 or newer; without it a fork of a template takes 0.2 ms longer", false, sys.TryNestedMounts),
		forTemplates(try("seccomp-tsync", "system call filters in all threads of a fork of a template at once",
			"build the kernel with CONFIG_SECCOMP_FILTER"+without, false, sys.TrySeccompTsync)),
		try("madvise-collapse", "templates in huge pages: their forks copy shorter page tables",
			"use a kernel of 6.1 or newer, with CONFIG_TRANSPARENT_HUGEPAGE; without it forks of templates are slower", false, sys.TryCollapse),
	}
}

func tryDetachedMounts() error {
	return inScratch(os.TempDir(), sys.TryDetachedMounts)
}

// Stub returns the probe for the stub of templates. check runs it.
func Stub(check func(context.Context) error) Probe {
	const name = "template-stub"
	return Probe{Name: name, Need: "templates, of which clones are forked", Template: true, Run: func(ctx context.Context) error {
		err := check(ctx)
		if err == nil || errors.Is(err, ErrNotSupported) {
			return err
		}
		return &NotSupported{Name: name, Why: err.Error(),
			Remedy: "install snapd-ctr-stub beside snapd-ctr-shim (`make install` does, on x86-64); without it clones are made by CRIU"}
	}}
}

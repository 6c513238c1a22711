package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// SetSysctls sets those of an OCI spec's kernel parameters that belong to a network namespace, the ones below net. CRIU
// restores those of other namespaces, but knows of no namespace that it did not make.
func (n *Netns) SetSysctls(all map[string]string) error {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(sysctlPath(name), "net/") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return sys.InNetns(n.f, func() error {
		for _, name := range names {
			if err := os.WriteFile("/proc/sys/"+sysctlPath(name), []byte(all[name]), 0); err != nil {
				return sysctlFailure(name, err)
			}
		}
		return nil
	})
}

// sysctlPath returns the path of a parameter below /proc/sys. No dot is left in it, so it cannot lead elsewhere.
func sysctlPath(name string) string { return strings.ReplaceAll(name, ".", "/") }

func sysctlFailure(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &snapshot.Error{Kind: snapshot.KindIncompatible, Op: "set kernel parameter", On: name,
			Err: errors.New("this kernel has no such parameter"), Hint: "load the module that has it, or clone on another host"}
	}
	return fmt.Errorf("set kernel parameter %s: %w", name, err)
}

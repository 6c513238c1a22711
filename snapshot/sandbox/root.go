package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// PrepareRoot makes the mounted root file system of a clone fit for CRIU 4.2.
//
// CRIU makes no mount points. They are there when the snapshot has the container's own files as they were; podman leaves
// them out of its archives.
//
// CRIU needs a directory in the root to change roots: it takes /tmp, and makes and removes one of its own where there is
// none, which fails if the container's root was read-only. There /tmp is made here.
func PrepareRoot(rootfs string, mounts []snapshot.Mount) error {
	root, err := os.OpenRoot(rootfs) // what is in it may be links to anywhere
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range mounts {
		if m.Kind == snapshot.MountRoot || !onRoot(m, mounts) {
			continue
		}
		if err := mountPoint(root, m); err != nil {
			return fmt.Errorf("mount point %s: %w", m.Path, err)
		}
	}
	i := slices.IndexFunc(mounts, func(m snapshot.Mount) bool { return m.Kind == snapshot.MountRoot })
	if i < 0 || !slices.Contains(mounts[i].Flags, "ro") {
		return nil
	}
	if err := root.Mkdir("tmp", 0o700); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return root.Chmod("tmp", 0o777|os.ModeSticky)
}

// onRoot says whether the mount point of m lies on the root file system itself.
func onRoot(m snapshot.Mount, mounts []snapshot.Mount) bool {
	return !slices.ContainsFunc(mounts, func(o snapshot.Mount) bool {
		return o.Path != "/" && o.Path != m.Path && below(m.Path, o.Path)
	})
}

func mountPoint(root *os.Root, m snapshot.Mount) error {
	path := strings.TrimPrefix(m.Path, "/")
	if _, err := root.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !showsFile(m) {
		return root.MkdirAll(path, 0o755)
	}
	if dir := filepath.Dir(path); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return root.WriteFile(path, nil, 0o644)
}

// showsFile says whether a mount shows a file rather than a directory, as far as its record tells.
func showsFile(m snapshot.Mount) bool {
	switch m.Kind {
	case snapshot.MountNull:
		return true
	case snapshot.MountNative:
		part := m.Sub != "" && m.Sub != "/"
		return part && slices.Contains([]string{"devpts", "mqueue", "tmpfs"}, m.FSType)
	case snapshot.MountBind:
		st, err := os.Stat(m.Source)
		return err == nil && !st.IsDir()
	case snapshot.MountFile:
		return true
	default:
		return false
	}
}

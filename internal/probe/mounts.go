package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// tryTmpfs mounts a tmpfs where nobody else sees it.
func tryTmpfs() error {
	return inScratch(os.TempDir(), func(string) error { return nil })
}

// tryOverlay mounts an overlay of directories on a tmpfs, and writes through it.
func tryOverlay() error { return inScratch(os.TempDir(), overlayIn) }

// inScratch calls f with a fresh tmpfs on a directory made below parent, in a mount namespace of its own.
func inScratch(parent string, f func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(parent, "snapd-ctr-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	return sys.InNewNamespaces(syscall.CLONE_NEWNS, func() (err error) {
		if err := sys.MountTmpfs(dir, "mode=700,size=1m"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sys.Unmount(dir)) }()
		return f(dir)
	})
}

// overlayIn makes the directories of an overlay below dir and mounts it; a file of the base that is changed and one
// that is deleted through it must arrive in the upper directory.
func overlayIn(dir string) (err error) {
	at := func(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(at(d), 0o700); err != nil {
			return err
		}
	}
	for _, f := range []string{"changed", "deleted"} {
		if err := os.WriteFile(at("lower", f), []byte("base"), 0o600); err != nil {
			return err
		}
	}
	if err := sys.MountOverlay(at("merged"), []string{at("lower")}, at("upper"), at("work")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.Unmount(at("merged"))) }()
	if err := os.WriteFile(at("merged", "changed"), []byte("new"), 0o600); err != nil {
		return err
	}
	if err := os.Remove(at("merged", "deleted")); err != nil {
		return err
	}
	if b, err := os.ReadFile(at("upper", "changed")); err != nil || string(b) != "new" {
		return fmt.Errorf("a file changed in the overlay did not arrive in its upper directory (%w)", err)
	}
	if fi, err := os.Lstat(at("upper", "deleted")); err != nil || fi.Mode()&fs.ModeCharDevice == 0 {
		return fmt.Errorf("a file deleted in the overlay left no whiteout in its upper directory (%w)", err)
	}
	return nil
}

// StateDir returns the probe that asks whether overlays can have their upper directory in dir's file system. Where dir
// does not exist its nearest parent is asked.
func StateDir(dir string) Probe {
	const name = "state-dir"
	return Probe{Name: name, Need: "the files of containers in " + dir, Required: true, Run: func(context.Context) error {
		parent, err := existing(dir)
		if err != nil {
			return unknown(name, err)
		}
		if err := tryStateDir(parent); err != nil {
			return &NotSupported{Name: name, Why: err.Error(),
				Remedy: "name a directory on ext4, xfs, btrfs or tmpfs with --root; an overlay of an overlay does not work, nor does NFS"}
		}
		return nil
	}}
}

func tryStateDir(parent string) (err error) {
	dir, err := os.MkdirTemp(parent, ".snapd-ctr-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return sys.InNewNamespaces(syscall.CLONE_NEWNS, func() error { return overlayIn(dir) })
}

// existing returns dir or the nearest of its parents that exists.
func existing(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}

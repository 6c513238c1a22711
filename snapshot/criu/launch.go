package criu

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// defaultCache is where CRIU keeps its cache of kernel features unless it was built for another directory.
const defaultCache = "/run/criu.kdat"

// start starts cmd so that it finds the warm cache, if there is one.
//
// CRIU looks for its cache at a constant path and trusts any regular file there, but writes one only on a tmpfs. So it
// is started by a thread with a mount namespace of its own in which the cache is mounted over that path. CRIU unlinks a
// cache that it does not like: a mount point cannot be unlinked, so the file is safe. Where the cache cannot be
// mounted, criu runs without it, which is slower and not wrong.
func (t Tool) start(cmd *exec.Cmd) error {
	if t.Launch != nil && t.Kerndat == "" {
		return t.Launch(cmd.Start)
	}
	if t.Kerndat == "" {
		return cmd.Start()
	}
	target := t.cache
	if target == "" {
		target = defaultCache
	}
	return sys.Aside(func() error {
		if err := unshareMounts(); err == nil {
			_ = bindFile(t.Kerndat, target)
		}
		return cmd.Start()
	})
}

// unshareMounts gives the calling thread a mount namespace whose mounts do not reach any other.
func unshareMounts() error {
	if err := syscall.Unshare(syscall.CLONE_FS | syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_SLAVE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// bindFile mounts the file source over target, which is made, empty, where nothing is there.
func bindFile(source, target string) error {
	f, err := os.OpenFile(target, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := syscall.Mount(source, target, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s over %s: %w", source, target, err)
	}
	return nil
}

package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Slave makes every mount of the caller's mount namespace a slave of its peers: what the caller mounts stays with it,
// what the host mounts and unmounts later still comes through.
func Slave() error {
	return mountErr("make slave", "/", unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""))
}

// MakeShared puts the mount at target into a peer group of its own.
func MakeShared(target string) error {
	return mountErr("make shared", target, unix.Mount("", target, "", unix.MS_SHARED, ""))
}

// MountTmpfs mounts a fresh tmpfs; options are those of the super block, "mode=755,size=64k"; "ro" is one of them.
func MountTmpfs(target, options string) error {
	return mountErr("mount tmpfs", target, unix.Mount("tmpfs", target, "tmpfs", 0, options))
}

// RemountReadonly makes the super block mounted at target read-only.
func RemountReadonly(target string) error {
	return mountErr("remount read-only", target, unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

// Bind bind-mounts source, without what is mounted below it, at target.
func Bind(source, target string) error {
	return mountErr("bind "+source, target, unix.Mount(source, target, "", unix.MS_BIND, ""))
}

// Unmount detaches the mount at target and everything below it at once; users of it keep what they have open. A target
// that is no mount point is an error, [unix.EINVAL].
func Unmount(target string) error {
	return mountErr("unmount", target, unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
}

// NotMounted says whether err means that what was to be unmounted is no mount point, or does not exist.
func NotMounted(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrNotExist)
}

// MountOverlay mounts an overlay of lower, topmost first, and upper at target. It asks for each lower directory by itself,
// which has no limit on the length of them all (kernel 6.8), and falls back to one option (kernel 5.2).
func MountOverlay(target string, lower []string, upper, work string) error {
	err := mountOverlay(target, lower, upper, work, true)
	if errors.Is(err, unix.EINVAL) {
		err = mountOverlay(target, lower, upper, work, false)
	}
	return err
}

func mountOverlay(target string, lower []string, upper, work string, each bool) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return mountErr("fsopen overlay", target, err)
	}
	defer unix.Close(fs)
	set := func(key, value string) error {
		return mountErr("set "+key+"="+value, target, unix.FsconfigSetString(fs, key, value))
	}
	if err := setLower(set, lower, each); err != nil {
		return err
	}
	if err := set("upperdir", upper); err != nil {
		return err
	}
	if err := set("workdir", work); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return &os.PathError{Op: "mount overlay" + fsLog(fs), Path: target, Err: err}
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return mountErr("fsmount overlay", target, err)
	}
	defer unix.Close(mnt)
	return mountErr("move_mount", target, unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func setLower(set func(key, value string) error, lower []string, each bool) error {
	if !each {
		escaped := make([]string, len(lower))
		for i, l := range lower {
			escaped[i] = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(l)
		}
		return set("lowerdir", strings.Join(escaped, ":"))
	}
	for _, l := range lower {
		if err := set("lowerdir+", l); err != nil {
			return err
		}
	}
	return nil
}

// fsLog returns what the kernel had to say about a file system context, or "".
func fsLog(fs int) string {
	b := make([]byte, 1024)
	n, err := unix.Read(fs, b)
	if err != nil || n <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.TrimSpace(string(b[:n])))
}

func mountErr(op, target string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: target, Err: err}
}

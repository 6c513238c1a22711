package sys

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MountFlags are what a mount, rather than its file system, allows and forbids, as mountinfo has it in its sixth field.
type MountFlags uint64 // MOUNT_ATTR_*

// ParseMountFlags reads the flags as mountinfo prints them: "ro", "nosuid", "relatime". Access times are exact where
// nothing is said of them.
func ParseMountFlags(names []string) (MountFlags, error) {
	f := MountFlags(unix.MOUNT_ATTR_STRICTATIME)
	var bad []string
	for _, name := range names {
		switch name {
		case "rw", "":
		case "ro":
			f |= unix.MOUNT_ATTR_RDONLY
		case "nosuid":
			f |= unix.MOUNT_ATTR_NOSUID
		case "nodev":
			f |= unix.MOUNT_ATTR_NODEV
		case "noexec":
			f |= unix.MOUNT_ATTR_NOEXEC
		case "nodiratime":
			f |= unix.MOUNT_ATTR_NODIRATIME
		case "nosymfollow":
			f |= unix.MOUNT_ATTR_NOSYMFOLLOW
		case "relatime":
			f &^= unix.MOUNT_ATTR__ATIME
		case "noatime":
			f = f&^unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NOATIME
		default:
			bad = append(bad, name)
		}
	}
	if bad != nil {
		return 0, fmt.Errorf("mount flag %s: %w", strings.Join(bad, ","), errors.ErrUnsupported)
	}
	return f, nil
}

// knownFlags are all that ParseMountFlags may set.
const knownFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC |
	unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR__ATIME

// MountAttr is the kernel's struct mount_attr.
type MountAttr struct{ Set, Clear, Propagation, UserNS uint64 }

// Attr returns what makes mount_setattr(2) give a mount exactly these flags, and make it private.
func (f MountFlags) Attr() MountAttr {
	return MountAttr{Set: uint64(f), Clear: (knownFlags &^ uint64(f)) | unix.MOUNT_ATTR__ATIME, Propagation: unix.MS_PRIVATE}
}

// Classic returns the flags as mount(2) takes them for a new mount. Read-only is not among them: mount(2) would make the
// file system itself read-only.
func (f MountFlags) Classic() uintptr {
	var ms uintptr
	for attr, flag := range map[MountFlags]uintptr{
		unix.MOUNT_ATTR_NOSUID: unix.MS_NOSUID, unix.MOUNT_ATTR_NODEV: unix.MS_NODEV, unix.MOUNT_ATTR_NOEXEC: unix.MS_NOEXEC,
		unix.MOUNT_ATTR_NODIRATIME: unix.MS_NODIRATIME, unix.MOUNT_ATTR_NOSYMFOLLOW: unix.MS_NOSYMFOLLOW,
		unix.MOUNT_ATTR_NOATIME: unix.MS_NOATIME, unix.MOUNT_ATTR_STRICTATIME: unix.MS_STRICTATIME,
	} {
		if f&attr != 0 {
			ms |= flag
		}
	}
	return ms
}

// Readonly says whether the mount forbids to write.
func (f MountFlags) Readonly() bool { return f&unix.MOUNT_ATTR_RDONLY != 0 }

// Writable returns the flags without what keeps a new mount from being filled.
func (f MountFlags) Writable() MountFlags { return f &^ unix.MOUNT_ATTR_RDONLY }

// MountOption is an option of a file system, "size=64k"; a flag, "ro", has no value.
type MountOption struct{ Key, Value string }

// ParseMountOptions reads a list with commas, and leaves out "rw", which is what a file system is anyway.
func ParseMountOptions(list string) []MountOption {
	var out []MountOption
	for o := range strings.SplitSeq(list, ",") {
		key, value, _ := strings.Cut(o, "=")
		if key != "" && o != "rw" {
			out = append(out, MountOption{key, value})
		}
	}
	return slices.Clip(out)
}

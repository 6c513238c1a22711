package sandbox

import (
	"errors"
	"os"
	"slices"
	"strconv"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// DetachedMounts are the mounts of one clone that exist before the clone does. They are in no mount namespace; the clone,
// which is handed their descriptors, attaches them in its own.
type DetachedMounts struct {
	mounts []*sys.DetachedMount // as [Detached] lists them
	files  *sys.DetachedMount   // holds what mounts of kind file show, and may be the last of mounts; nil without
}

// Files returns the mounts' descriptors in the order of [Detached]; the first is the root file system.
func (d *DetachedMounts) Files() []*os.File {
	files := make([]*os.File, len(d.mounts))
	for i, m := range d.mounts {
		files[i] = m.File()
	}
	return files
}

// Close gives up what was not handed over.
func (d *DetachedMounts) Close() error {
	var errs []error
	if d.files != nil && !slices.Contains(d.mounts, d.files) {
		errs = append(errs, d.files.Close())
	}
	for _, m := range d.mounts {
		errs = append(errs, m.Close())
	}
	d.mounts, d.files = nil, nil
	return errors.Join(errs...)
}

// Detached returns which mounts of a plan are handed to a clone, in the order of [DetachedMounts.Files]: the root, then
// those with a file system of the clone's own or a part of the host's, once for each key. If there are mounts of kind
// file among them, there is one more at the end, of that kind and without a path: a tmpfs that holds for each of them what it
// shows, by the names of [FileNames], for the clone to bind from.
//
// The mounts whose indices are ahead are not among them: they are attached to the root before the clone has it, which takes
// Linux 6.15. They are listed in the order in which that is done.
func Detached(mounts []snapshot.Mount, ahead []int) []snapshot.Mount {
	var list, left, files []snapshot.Mount
	handed := false
	for i, m := range mounts {
		if m.Kind == snapshot.MountRoot && len(list) == 0 {
			list = append(list, m)
		} else if !slices.Contains(ahead, i) {
			left = append(left, m)
		}
	}
	for _, m := range distinct(left) {
		if m.Kind == snapshot.MountFile {
			handed = true
		} else {
			list = append(list, m)
		}
	}
	for _, m := range mounts {
		if m.Kind == snapshot.MountFile {
			files = append(files, m)
		}
	}
	if handed {
		list = append(list, filesMount(files))
	}
	return list
}

// filesMount is the file system on which the files of some mounts of kind file lie.
func filesMount(files []snapshot.Mount) snapshot.Mount {
	return snapshot.Mount{FSType: "tmpfs", Kind: snapshot.MountFile, Options: "mode=755", Flags: writable(files[0].Flags)}
}

// FileNames returns by key the name that each mount of kind file has on the last one of [Detached].
func FileNames(mounts []snapshot.Mount) map[string]string {
	names := make(map[string]string)
	for _, m := range distinct(mounts) {
		if m.Kind == snapshot.MountFile {
			names[m.Key] = strconv.Itoa(len(names))
		}
	}
	return names
}

// writable returns mount flags without "ro": what is mounted with it gets it when all is written.
func writable(flags []string) []string {
	out := slices.Clone(flags)
	for i, f := range out {
		if f == "ro" {
			out[i] = "rw"
		}
	}
	return out
}

package template

import (
	"fmt"
	"path"
	"slices"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fsnotify"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// Numbers of inotify, as in the kernel's headers.
const (
	inAllEvents  = 0xfff
	inExclUnlink = 1 << 26
	inOneshot    = 1 << 31
	inSetNextWD  = 0x40044900 // INOTIFY_IOC_SETNEXTWD
)

// watches has the inotify groups of a process watch what they did. It comes last: what was opened before is no news.
func (c *compiler) watches(r *recipe.Recipe, t *criu.Task) {
	seen := make(map[uint32]bool)
	for _, e := range t.FDs {
		f, err := c.images.File(e.GetId())
		if err != nil || e.GetType() != fdinfo.FdTypes_INOTIFY || seen[e.GetId()] {
			continue
		}
		seen[e.GetId()] = true
		all := slices.SortedFunc(slices.Values(f.GetIfy().GetWd()), func(a, b *fsnotify.InotifyWdEntry) int { return int(a.GetWd()) - int(b.GetWd()) })
		for _, w := range all {
			c.watch(r, e.GetFd(), w)
		}
	}
}

// watch adds one watch, under its number. The file is opened first: inotify itself would follow a link in the container to
// a descriptor of ours.
func (c *compiler) watch(r *recipe.Recipe, group uint32, w *fsnotify.InotifyWdEntry) {
	what, name := fmt.Sprintf("descriptor %d: watch %d", group, w.GetWd()), w.GetFHandle().GetPath()
	switch mask := w.GetMask(); {
	case !path.IsAbs(name):
		c.refuse("%s is of a file whose name is not known", what)
	case len(c.tree) > 1:
		c.refuse("%s, in a container of several processes", what)
	case mask&^(inAllEvents|inExclUnlink|inOneshot) != 0 || mask == 0:
		c.refuse("%s is for the events %#x", what, mask)
	}
	d := r.Data()
	file := d.Space(8)
	at := c.givenFD(givenStdin) // which has its place by now
	r.Call(what, recipe.Openat2, recipe.Int(atFDCWD), recipe.At(d.String(name)), recipe.At(d.Bytes(openHow(oPath|syscall.O_NOFOLLOW|oCloexec))),
		recipe.Int(howSize)).Into(file)
	r.Call(what, recipe.Dup3, recipe.Load(file), recipe.Int(at), recipe.Int(oCloexec))
	r.Call(what, recipe.Close, recipe.Load(file))
	r.Call(what, recipe.Ioctl, recipe.Int(group), recipe.Int(inSetNextWD), recipe.Int(w.GetWd()))
	r.Call(what, recipe.InotifyAddWatch, recipe.Int(group), recipe.At(d.String(fmt.Sprintf("/proc/self/fd/%d", at))), recipe.Int(w.GetMask())).Want(int(w.GetWd()))
}

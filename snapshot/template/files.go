package template

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// file opens a file by name: a regular file, a directory, a device for memory, or anything at all with O_PATH.
func (d *descriptors) file(id uint32, f *regfile.RegFileEntry) {
	if f.GetExt() {
		d.givenFile(id, f)
		return
	}
	if remap := d.remaps[id]; remap != nil {
		d.deleted(id, f, remap)
		return
	}
	if why := d.cannotOpen(f); why != "" {
		d.refuse(id, "%s", why)
		return
	}
	d.openNamed(id, f, f.GetName())
}

// openNamed opens a file and puts it where it was read or written last.
func (d *descriptors) openNamed(id uint32, f *regfile.RegFileEntry, name string) {
	h := d.make(id, "open "+name, recipe.Openat2, recipe.Int(atCwd), d.string(name), d.how(openFlags(f.GetFlags())|d.cloexec(id)), recipe.Int(howSize))
	d.place(h, id, d.cloexec(id))
	if f.GetFlags()&oPath != 0 {
		return
	}
	if size := f.GetSize(); size != 0 && !synthetic(name) {
		d.call(id, name+" has another size than it had", recipe.Lseek, h.arg(), recipe.Int(0), recipe.Int(2)).Want(int(size))
		d.seek(id, h, f.GetPos())
	} else if f.GetPos() != 0 {
		d.seek(id, h, f.GetPos())
	}
	d.owner(id, h.arg(), f.GetFown())
}

const (
	howSize             = 24 // of the kernel's struct open_how
	resolveNoMagiclinks = 2
)

// how is a struct open_how that has nothing opened by way of the links in /proc that lead to open files: as long as a recipe
// runs, files of the host and of the snapshot are among those. No file was recorded by such a name.
func (d *descriptors) how(flags uint32) recipe.Arg {
	return d.bytes(openHow(flags))
}

func openHow(flags uint32) (b []byte) {
	if flags&oPath != 0 {
		flags &= oPath | syscall.O_DIRECTORY | syscall.O_NOFOLLOW | syscall.O_CLOEXEC // the kernel insists
	}
	for _, v := range []uint64{uint64(flags), 0, resolveNoMagiclinks} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// unknownPos is the position of files that have none.
const unknownPos = ^uint64(0)

func (d *descriptors) seek(id uint32, h *handle, pos uint64) {
	if pos == unknownPos {
		pos = 0
	}
	d.call(id, "seek", recipe.Lseek, h.arg(), recipe.Int(pos), recipe.Int(0)).Want(int(pos))
}

// synthetic says whether a file's size says nothing of its content.
func synthetic(name string) bool {
	return strings.HasPrefix(name, "/proc/") || strings.HasPrefix(name, "/sys/") || strings.HasPrefix(name, "/dev/")
}

// cannotOpen says why a file cannot be had by opening it again; nothing if it can.
func (d *descriptors) cannotOpen(f *regfile.RegFileEntry) string {
	name := f.GetName()
	if !path.IsAbs(name) {
		return fmt.Sprintf("the file %q, which has no path", name)
	}
	if f.GetFlags()&oPath == 0 {
		switch f.GetMode() & syscall.S_IFMT {
		case 0, syscall.S_IFREG, syscall.S_IFDIR:
		case syscall.S_IFCHR:
			if !slices.Contains([]string{"null", "zero", "full", "random", "urandom"}, path.Base(name)) {
				return "the device " + name
			}
		default:
			return "the special file " + name
		}
	}
	return d.procName(name)
}

// procName refuses names in /proc of what is not there yet or belongs to another process.
func (d *descriptors) procName(name string) string {
	parts := strings.Split(name, "/")
	self := fmt.Sprint(d.t.Tree.GetPid())
	if len(parts) < 3 || parts[1] != "proc" || strings.Trim(parts[2], "0123456789") != "" {
		return ""
	}
	switch {
	case parts[2] != self:
		return fmt.Sprintf("%s, a file of another process", name)
	case len(parts) > 4 && parts[3] == "task" && parts[4] != self:
		return fmt.Sprintf("%s, a file of a thread", name)
	case len(parts) > 4 && (parts[3] == "fd" || parts[3] == "fdinfo" || parts[3] == "map_files"):
		return fmt.Sprintf("%s, which need not be there in a clone", name)
	}
	return ""
}

// givenFile makes descriptors of a file that the clone was given.
func (d *descriptors) givenFile(id uint32, f *regfile.RegFileEntry) {
	n := d.given(d.files[id])
	if n < 0 {
		d.refuse(id, "a file from outside of the container")
		return
	}
	d.placeCopy(recipe.Int(n), id)
	d.call(id, "set flags", recipe.Fcntl, recipe.Int(d.fd(id)), recipe.Int(fSetfl), recipe.Int(f.GetFlags()&settable))
	d.owner(id, recipe.Int(d.fd(id)), f.GetFown())
}

// parked is added to the name of a file that is in the way of a deleted one of the same name.
const parked = ".parked-by-snapd-ctr"

// deleted makes a file that has no name again: under its old one, which it then loses. All that is open of it is opened.
func (d *descriptors) deleted(id uint32, f *regfile.RegFileEntry, remap *remap_file_path.RemapFilePathEntry) {
	name := f.GetName()
	kind := remap.GetRemapType()
	switch {
	case kind == remap_file_path.RemapType_LINKED:
		d.refuse(id, "the file %s, which has lost this name but not all others", name)
		return
	case kind != remap_file_path.RemapType_GHOST:
		d.refuse(id, "%s, a file of a process that has ended", name)
		return
	}
	g, err := d.c.images.Ghost(remap.GetRemapId())
	if err != nil {
		d.refuse(id, "the deleted file %s: %v", name, err)
		return
	}
	var ids []uint32
	for _, o := range d.ids {
		if r := d.remaps[o]; r != nil && r.GetRemapId() == remap.GetRemapId() && r.GetRemapType() == kind && d.files[o].GetReg() != nil {
			d.done[o] = true
			ids = append(ids, o)
		}
	}
	mode := g.Entry.GetMode()
	directory := mode&syscall.S_IFMT == syscall.S_IFDIR
	if !directory && mode&syscall.S_IFMT != syscall.S_IFREG || !path.IsAbs(name) {
		d.refuse(id, "%s, a special file that has been deleted", name)
		return
	}
	at, park := d.string(name), d.string(name+parked)
	const noReplace = 1
	d.call(id, "move away what is at "+name, recipe.Renameat2, recipe.Int(atCwd), at, recipe.Int(atCwd), park, recipe.Int(noReplace)).Try()
	var unlinkFlags int
	if directory {
		unlinkFlags = 0x200 // AT_REMOVEDIR
		d.call(id, "make "+name, recipe.Mkdirat, recipe.Int(atCwd), at, recipe.Int(0o700))
	}
	d.ghost(id, g, name, directory)
	for _, o := range ids {
		d.openNamed(o, d.files[o].GetReg(), name)
	}
	d.call(id, "delete "+name, recipe.Unlinkat, recipe.Int(atCwd), at, recipe.Int(unlinkFlags))
	d.call(id, "move back what was at "+name, recipe.Renameat2, recipe.Int(atCwd), park, recipe.Int(atCwd), at, recipe.Int(noReplace)).Try()
}

// ghost gives a file its content, owner, permissions and times. A directory is there already, and has no content.
func (d *descriptors) ghost(id uint32, g *criu.Ghost, name string, directory bool) {
	flags := syscall.O_RDWR | syscall.O_CREAT | syscall.O_EXCL | syscall.O_CLOEXEC | syscall.O_NOFOLLOW
	if directory {
		flags = syscall.O_RDONLY | syscall.O_DIRECTORY | syscall.O_CLOEXEC | syscall.O_NOFOLLOW
	}
	h := d.aside(d.make(id, "make "+name, recipe.Openat, recipe.Int(atCwd), d.string(name), recipe.Int(flags), recipe.Int(0o600)))
	for _, c := range g.Chunks {
		d.copyIn(id, h, g.File, c.Offset, c.At, c.Len)
	}
	if !directory {
		d.call(id, "set the size", recipe.Ftruncate, h.arg(), recipe.Int(g.Size))
	}
	e := g.Entry
	d.call(id, "set the owner", recipe.Fchown, h.arg(), recipe.Int(e.GetUid()), recipe.Int(e.GetGid()))
	d.call(id, "set permissions", recipe.Fchmod, h.arg(), recipe.Int(e.GetMode()&0o7777))
	if a, m := e.GetAtim(), e.GetMtim(); a != nil && m != nil {
		d.call(id, "set times", recipe.Utimensat, h.arg(), recipe.Int(0),
			d.int64s(a.GetTvSec(), a.GetTvUsec()*1000, m.GetTvSec(), m.GetTvUsec()*1000), recipe.Int(0))
	}
	d.drop(h)
}

// inline is up to how many bytes lie in the recipe's data and not in the images.
const inline = 64 << 10

// copyIn writes a stretch of an image into a file.
func (d *descriptors) copyIn(id uint32, h *handle, image string, from, to, n int64) {
	if n > inline {
		d.call(id, "seek", recipe.Lseek, h.arg(), recipe.Int(to), recipe.Int(0)).Want(int(to))
		for at := int64(0); at < n; {
			// A call copies less than 2 GiB. The offset is written to, so it is not one of those that are shared.
			part := min(n-at, 1<<30)
			d.call(id, "copy content", recipe.Sendfile, h.arg(), recipe.Int(d.c.open(image)),
				recipe.At(d.r.Data().Put(uint64(from+at))), recipe.Int(part)).Want(int(part))
			at += part
		}
		return
	}
	b, err := d.c.images.Bytes(image, from, n)
	if err != nil {
		d.refuse(id, "its content: %v", err)
		return
	}
	d.call(id, "write content", recipe.Pwrite, h.arg(), recipe.At(d.r.Data().Bytes(b)), recipe.Int(n), recipe.Int(to)).Want(int(n))
}

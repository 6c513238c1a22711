package template

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// Constants of the kernel that the syscall package lacks.
const (
	openTreeClone = 1
	emptyPath     = 0x1000
	fromEmptyPath = 4 // move_mount's own
)

// bornFiles is the one directory of the file system that a clone begins in, and shares with its template.
const bornFiles = "/files"

// layMounts finds out in which order the mounts of a clone are made, and which of them are on the root already when the
// clone gets it.
func (c *compiler) layMounts() {
	before := len(c.reasons)
	c.layout = c.mountLayout()
	order, ahead, stuck := c.layout.order(c.early)
	for _, i := range stuck {
		if len(c.reasons) == before { // else this follows from what was said already
			c.refuse("mount %s: others hide where it lies, or what it was made from", c.layout.mounts[i].Path)
		}
	}
	if len(c.reasons) == before {
		c.ahead, c.inClone = order[1:ahead], order[ahead:]
	}
}

// early says whether mount i can be made before there is a clone: whether it shows nothing of the clone's own namespaces
// but of that of its network, which is there.
func (c *compiler) early(i int) bool {
	m := c.layout.mounts[i]
	if !c.host.nested || m.Kind != snapshot.MountNative {
		return c.host.nested
	}
	plain := !slices.ContainsFunc(strings.Split(m.Options, ","), refusedOption)
	return m.From == "" && m.Options != "" && plain && slices.Contains([]string{"sysfs", "devpts", "tmpfs"}, m.FSType)
}

// refusedOption says of an option of a file system that a clone's cannot be given it.
func refusedOption(o string) bool {
	return slices.Contains([]string{"sync", "dirsync", "mand", "lazytime"}, o)
}

// mounts adds to r the calls that give a clone its mounts and its root. The detached mounts are descriptors first, first+1,
// … in the order of [sandbox.Detached].
//
// The clone begins in a mount namespace whose only mount is a tmpfs, read-only, with an empty directory /files. The
// container's root becomes the root at once, so that all paths that follow are the container's, wherever its symbolic
// links may point.
func (c *compiler) mounts(r *recipe.Recipe, first int) {
	m := &mounter{compiler: c, r: r, mountLayout: c.layout, detached: make(map[string]int), attrs: make(map[sys.MountAttr]recipe.Addr)}
	m.number(first)
	m.enter()
	for _, i := range c.inClone {
		m.mount(i)
	}
	m.leave()
}

func (c *compiler) mountLayout() *mountLayout {
	mounts := c.config.Mounts
	roots, known := 0, len(mounts) == 1
	for _, m := range mounts {
		if m.Kind == snapshot.MountRoot {
			roots++
		}
		known = known || m.On != ""
	}
	switch {
	case roots != 1:
		c.refuse("mount /: there are %d, not one", roots)
		return newMountLayout(nil, nil)
	case !known:
		c.refuse("mounts: the snapshot does not say how they lie on one another; take it again with this version")
		return newMountLayout(nil, nil)
	}
	return newMountLayout(mounts, func(m snapshot.Mount, why string) { c.refuse("mount %s: %s", m.Path, why) })
}

// mounter writes the recipe.
type mounter struct {
	*compiler
	*mountLayout
	r        *recipe.Recipe
	root     int
	files    int               // descriptor of the tmpfs with what mounts of kind file show; -1 without
	names    map[string]string // of those, by key
	onFiles  sys.MountFlags    // of that tmpfs
	detached map[string]int    // key -> descriptor
	moved    []string          // keys whose descriptor's mount has its place
	attrs    map[sys.MountAttr]recipe.Addr
}

func (m *mounter) number(first int) {
	m.files, m.names = -1, sandbox.FileNames(m.config.Mounts)
	for i, d := range sandbox.Detached(m.config.Mounts, m.ahead) {
		switch {
		case d.Kind == snapshot.MountRoot:
			m.root = first + i
		case d.Kind == snapshot.MountFile:
			m.files, m.onFiles = first+i, m.flags(d)
		default:
			m.detached[d.Key] = first + i
		}
	}
}

func (m *mounter) flags(of snapshot.Mount) sys.MountFlags {
	f, err := sys.ParseMountFlags(of.Flags)
	if err != nil {
		m.refuse("mount %s: %v", of.Path, err)
	}
	return f
}

func (m *mounter) path(s string) recipe.Arg { return recipe.At(m.r.Data().String(s)) }

// move puts a detached mount to its place.
func (m *mounter) move(fd int, to string) {
	m.moveFrom(recipe.Int(fd), to)
}

func (m *mounter) moveFrom(fd recipe.Arg, to string) {
	m.r.Call("attach "+to, recipe.MoveMount, fd, m.path(""), recipe.Int(atFDCWD), m.path(to), recipe.Int(fromEmptyPath))
}

// enter puts the container's root over where the clone began, and makes it the clone's. What is beneath is an empty tmpfs,
// read-only, which no path leads to any more; it stays, since taking it away would cost as much as all other mounts
// together: the kernel waits for every processor then. The working directory is where files are bound from.
func (m *mounter) enter() {
	if m.files >= 0 {
		m.move(m.files, bornFiles)
	}
	m.move(m.root, "/")
	m.r.Call("enter the root", recipe.Fchdir, recipe.Int(m.root))
	m.r.Call("change the root", recipe.Chroot, m.path("."))
	if m.files >= 0 {
		m.r.Call("enter "+bornFiles, recipe.Fchdir, recipe.Int(m.files))
	}
}

// leave gives up the directory that files were bound from.
func (m *mounter) leave() { m.r.Call("enter /", recipe.Chdir, m.path("/")) }

func (m *mounter) mount(i int) {
	d := m.mountLayout.mounts[i]
	switch {
	case d.Kind == snapshot.MountNative && d.From != "":
		m.bind(i)
	case d.Kind == snapshot.MountNative:
		m.fresh(d)
	case d.Kind == snapshot.MountFile:
		m.bindFile(d)
	default:
		m.attach(d)
	}
}

// attach moves the mount that was made for d's key, or, where several mounts have that key, binds it again.
func (m *mounter) attach(d snapshot.Mount) {
	fd, ok := m.detached[d.Key]
	if !ok {
		m.refuse("mount %s: %s is no kind of mount that is made ahead", d.Path, d.Kind)
		return
	}
	if !slices.Contains(m.moved, d.Key) {
		m.moved = append(m.moved, d.Key)
		m.move(fd, d.Path) // with its flags already
		return
	}
	at := m.r.Data().Space(8)
	m.r.Call("bind "+d.Path, recipe.OpenTree, recipe.Int(fd), m.path(""), recipe.Int(openTreeClone|emptyPath|syscall.O_CLOEXEC)).Into(at)
	m.moveFrom(recipe.Load(at), d.Path)
	m.r.Call("close", recipe.Close, recipe.Load(at))
	m.setFlags(d.Path, m.flags(d))
}

func (m *mounter) bindFile(d snapshot.Mount) {
	m.r.Call("bind "+d.Path, recipe.Mount, m.path(m.names[d.Key]), m.path(d.Path), recipe.Int(0), recipe.Int(syscall.MS_BIND), recipe.Int(0))
	if f := m.flags(d); f != m.onFiles {
		m.setFlags(d.Path, f)
	}
}

// bind binds a part of another mount.
func (m *mounter) bind(i int) {
	d, base := m.mountLayout.mounts[i], m.mountLayout.mounts[m.base[i]]
	if why := unlike(base, d.Part); why != "" {
		m.refuse("mount %s: %s", d.Path, why)
		return
	}
	source := m.sourcePath(i)
	m.r.Call("bind "+d.Path, recipe.Mount, m.path(source), m.path(d.Path), recipe.Int(0), recipe.Int(syscall.MS_BIND), recipe.Int(0))
	if f := m.flags(d); f != m.flags(m.mountLayout.mounts[m.mountLayout.source[i]]) { // a bind has those of its source
		m.setFlags(d.Path, f)
	}
}

// unlike says why a part of a mount is not in a clone what it was.
func unlike(base snapshot.Mount, part string) string {
	top, _, _ := strings.Cut(part, "/")
	_, err := strconv.Atoi(top)
	switch {
	case base.Kind == snapshot.MountNative && base.FSType == "tmpfs":
		return "it shows a tmpfs that is covered by another mount, whose content was not recorded"
	case base.FSType == "devpts" && part != "" && part != "ptmx":
		return "it is a terminal"
	case base.FSType == "mqueue" && part != "":
		return "it is a message queue"
	case base.FSType == "proc" && err == nil:
		return "it belongs to the process " + top
	default:
		return ""
	}
}

// fresh mounts a file system that belongs to the clone's namespaces, which only the clone has entered.
func (m *mounter) fresh(d snapshot.Mount) {
	if !slices.Contains([]string{"proc", "sysfs", "mqueue", "devpts", "tmpfs"}, d.FSType) {
		m.refuse("mount %s: a file system %s", d.Path, d.FSType)
		return
	}
	if d.Options == "" {
		m.refuse("mount %s: the options of its %s are not recorded: another mount covers it, or the snapshot is older than this version: take it again",
			d.Path, d.FSType)
		return
	}
	var options []string
	flags := m.flags(d)
	classic, readonly := flags.Classic(), false
	for o := range strings.SplitSeq(d.Options, ",") {
		switch {
		case o == "rw":
		case o == "ro":
			readonly = true
		case refusedOption(o):
			m.refuse("mount %s: a %s with the option %s", d.Path, d.FSType, o)
		default:
			options = append(options, o)
		}
	}
	if d.FSType == "devpts" {
		options = append([]string{"newinstance"}, options...)
	}
	if readonly {
		classic |= syscall.MS_RDONLY // the file system's own, and the mount's
	}
	m.r.Call("mount "+d.Path, recipe.Mount, m.path(d.FSType), m.path(d.Path), m.path(d.FSType), recipe.Int(classic),
		m.path(strings.Join(options, ",")))
	if readonly != flags.Readonly() {
		m.setFlags(d.Path, flags)
	}
}

// setFlags gives the mount at a path exactly these flags.
func (m *mounter) setFlags(at string, f sys.MountFlags) {
	attr := f.Attr()
	addr, ok := m.attrs[attr]
	if !ok {
		addr = m.r.Data().Put(attr)
		m.attrs[attr] = addr
	}
	m.r.Call("flags of "+path.Clean(at), recipe.MountSetattr, recipe.Int(atFDCWD), m.path(at), recipe.Int(0), recipe.At(addr), recipe.Int(32))
}

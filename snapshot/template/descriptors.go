package template

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"google.golang.org/protobuf/proto"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

const (
	atCwd     = -100 // AT_FDCWD
	fdCloexec = 1

	fGetfd, fSetfd, fSetfl, fSetsig = 1, 2, 4, 10
	fDupfdCloexec                   = 1030
	fSetPipeSize                    = 1031
	fAddSeals                       = 1033

	oLargefile = 0x8000
	oTmpfile   = 0x400000
	oPath      = 0x200000
	oNoatime   = 0x40000
)

// maxDescriptors is how many descriptors a process can have: the kernel's own limit, which fs.nr_open only lowers in practice.
const maxDescriptors = 1 << 20

// settable are the status flags of an open file that fcntl sets.
const settable = syscall.O_APPEND | syscall.O_NONBLOCK | syscall.O_ASYNC | syscall.O_DIRECT | oNoatime

// descriptors adds to r the calls that give a clone the descriptors of the process t. They expect no descriptor below
// c.high to be open, the clone's root to be in place, and "/" to be the working directory.
func (c *compiler) descriptors(r *recipe.Recipe, t *criu.Task) {
	if c.high > maxDescriptors {
		c.refuse("descriptor %d: not a number that the images can have", c.high-1)
		return
	}
	d := &descriptors{c: c, r: r, t: t, table: newTable(c.high), byID: make(map[uint32][]*fdinfo.FdinfoEntry),
		files: make(map[uint32]*fdinfo.FileEntry), done: make(map[uint32]bool), words: make(map[string]recipe.Addr)}
	if !d.read() {
		return
	}
	for _, id := range d.ids {
		if !d.done[id] {
			d.done[id] = true
			d.open(id, d.files[id])
		}
	}
	d.releasePorts()
	d.finishUnix()
	if c.staged == nil { // else each process fills its own
		d.fillEpolls()
	}
	d.check()
}

// descriptors is one run of the compiler over the descriptors of a process. Several descriptors may be of one open file,
// which has an id.
type descriptors struct {
	c *compiler
	r *recipe.Recipe
	t *criu.Task

	table  *fdtable
	ids    []uint32 // by their first descriptors, ascending
	byID   map[uint32][]*fdinfo.FdinfoEntry
	files  map[uint32]*fdinfo.FileEntry
	done   map[uint32]bool
	remaps map[uint32]*remap_file_path.RemapFilePathEntry
	pipes  map[uint32]criu.Pipe
	queues map[uint32][]criu.Packet
	words  map[string]recipe.Addr // data that is used more than once

	ports map[uint32][]*inetSocket // by source port
	unix  []*unixSocket
}

// read takes from the images what is in them of the process's descriptors.
func (d *descriptors) read() bool {
	for _, e := range d.t.FDs {
		fd, id := int(e.GetFd()), e.GetId()
		if fd >= d.c.high || d.table.slots[fd].taken {
			d.c.refuse("descriptor %d: not a number that the images can have", fd)
			return false
		}
		d.table.slots[fd].taken = true // only to find doubles
		if len(d.byID[id]) == 0 {
			d.ids = append(d.ids, id)
		}
		d.byID[id] = append(d.byID[id], e)
		f, err := d.c.images.File(id)
		if err != nil || f == nil {
			d.c.refuse("descriptor %d: the images lack what it is: %v", fd, err)
			return false
		}
		if mode, is := d.c.ghosts[id]; is && f.GetReg() != nil { // the images have that with the mapping
			f = proto.Clone(f).(*fdinfo.FileEntry)
			f.Reg.Flags = &mode
		}
		d.files[id] = f
	}
	d.table = newTable(d.c.high)
	for _, id := range d.ids {
		slices.SortFunc(d.byID[id], func(a, b *fdinfo.FdinfoEntry) int { return int(a.GetFd()) - int(b.GetFd()) })
	}
	slices.SortFunc(d.ids, func(a, b uint32) int { return d.fd(a) - d.fd(b) })
	var err error
	if d.remaps, err = d.c.images.Remaps(); err == nil {
		if d.pipes, err = d.c.images.PipeContents(); err == nil {
			d.queues, err = d.c.images.SocketQueues()
		}
	}
	if err != nil {
		d.c.refuse("descriptors: %v", err)
		return false
	}
	if locked, err := d.c.images.Has("filelocks.img"); locked || err != nil {
		d.c.refuse("a lock on a file") // which descriptor has it is not recorded for every kind of lock
	}
	return true
}

// fd returns the lowest number that an open file has.
func (d *descriptors) fd(id uint32) int {
	if es := d.byID[id]; len(es) > 0 {
		return int(es[0].GetFd())
	}
	return -1
}

func (d *descriptors) refuse(id uint32, format string, args ...any) {
	d.c.refuse("%s: %s", d.name(id), fmt.Sprintf(format, args...))
}

// name is how an open file is called where people read it: by the number, and the process, that has it.
func (d *descriptors) name(id uint32) string {
	if d.c.staged != nil {
		if h := d.c.holders[id]; h.process != nil {
			return fmt.Sprintf("%s: descriptor %d", h.process, h.fd)
		}
	}
	return fmt.Sprintf("descriptor %d", d.fd(id))
}

// open makes an open file and its descriptors, or the group that it can only be made with.
func (d *descriptors) open(id uint32, f *fdinfo.FileEntry) {
	switch d.byID[id][0].GetType() {
	case fdinfo.FdTypes_REG:
		d.file(id, f.GetReg())
	case fdinfo.FdTypes_PIPE:
		d.pipe(id, f.GetPipe())
	case fdinfo.FdTypes_FIFO:
		d.fifo(id)
	case fdinfo.FdTypes_EVENTFD:
		d.eventfd(id, f.GetEfd())
	case fdinfo.FdTypes_EVENTPOLL:
		d.epoll(id, f.GetEpfd())
	case fdinfo.FdTypes_TIMERFD:
		d.timerfd(id, f.GetTfd())
	case fdinfo.FdTypes_SIGNALFD:
		d.signalfd(id, f.GetSgfd())
	case fdinfo.FdTypes_INOTIFY:
		d.inotify(id, f.GetIfy())
	case fdinfo.FdTypes_INETSK:
		d.inet(id, f.GetIsk())
	case fdinfo.FdTypes_UNIXSK:
		d.unixSocket(id, f.GetUsk())
	case fdinfo.FdTypes_MEMFD:
		d.memfd(id, f.GetMemfd())
	default:
		d.refuse(id, "%s", unsupported(d.byID[id][0].GetType()))
	}
}

// unsupported names the kinds of descriptor that there is no recipe for.
func unsupported(kind fdinfo.FdTypes) string {
	names := map[fdinfo.FdTypes]string{
		fdinfo.FdTypes_TTY: "a terminal", fdinfo.FdTypes_NETLINKSK: "a netlink socket", fdinfo.FdTypes_PACKETSK: "a packet socket",
		fdinfo.FdTypes_TUNF: "a tun or tap device", fdinfo.FdTypes_NS: "a namespace", fdinfo.FdTypes_BPFMAP: "a BPF map",
		20: "a pidfd", fdinfo.FdTypes_FANOTIFY: "a fanotify group", fdinfo.FdTypes_EXT: "something that only a plugin of CRIU knows",
	}
	if name, ok := names[kind]; ok {
		return name
	}
	return fmt.Sprintf("of a kind that the engine does not know (%d)", kind)
}

// given returns the number of the descriptor that takes the place of what came from outside; below 0 if f did not.
func (d *descriptors) given(f *fdinfo.FileEntry) int {
	key := f.GetReg().GetName()
	if p := f.GetPipe(); p != nil {
		key = fmt.Sprintf("pipe:[%d]", p.GetPipeId())
	} else if !f.GetReg().GetExt() {
		return -1
	}
	if n, ok := d.c.given[key]; ok {
		return n
	}
	return -1
}

// owner makes a file send its signal, if it has been told which. To whom it would send it must not be set.
func (d *descriptors) owner(id uint32, h recipe.Arg, o *fown.FownEntry) {
	if o.GetPid() != 0 && d.c.staged != nil {
		d.c.owned = append(d.c.owned, ownedFile{d.name(id), d.fd(id), o}) // once the processes are there
	} else if o.GetPid() != 0 {
		d.refuse(id, "sends a signal to process %d when it is ready (F_SETOWN)", o.GetPid())
	}
	if o.GetSignum() != 0 {
		d.call(id, "set the signal", recipe.Fcntl, h, recipe.Int(fSetsig), recipe.Int(o.GetSignum()))
	}
}

// params sets the status flags that a file was not made with, and the rest of what is common to all files.
func (d *descriptors) params(id uint32, h recipe.Arg, flags, have uint32, o *fown.FownEntry) {
	if flags&settable != have&settable {
		d.call(id, "set flags", recipe.Fcntl, h, recipe.Int(fSetfl), recipe.Int(flags&settable))
	}
	d.owner(id, h, o)
}

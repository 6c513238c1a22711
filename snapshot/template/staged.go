package template

import (
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// What is open in several processes is one thing: an offset, a pipe's content, a connection. So the first process of a clone
// opens all that any process has open, once, at numbers above all theirs, and starts the others. Each then copies what it
// has to its own numbers.

// stageFiles numbers all open files of the container, and those that have no name and are mapped. One process without any of
// these needs it not.
func (c *compiler) stageFiles() {
	c.ghosts = make(map[uint32]uint32)
	for _, p := range c.tree {
		for _, v := range p.Space.GetVmas() {
			id, mode := uint32(v.GetShmid()), v.GetFdflags()&syscall.O_ACCMODE
			if !c.ghostMapped(v) {
				continue
			}
			if other, again := c.ghosts[id]; again && other != mode {
				c.refuse("%s: mapping %x-%x: a deleted file that others have mapped with other rights", p, v.GetStart(), v.GetEnd())
			}
			c.ghosts[id] = mode
		}
	}
	if len(c.tree) == 1 && len(c.ghosts) == 0 {
		return // each can be opened at its own numbers
	}
	c.stage = c.high
	first := c.tree[0]
	c.staged = &criu.Task{Tree: first.Tree, IDs: first.IDs, Space: &mm.MmEntry{}}
	c.holders = make(map[uint32]holder)
	add := func(id uint32, kind fdinfo.FdTypes, p *process, fd uint32) {
		if _, seen := c.holders[id]; !seen {
			n := uint32(c.stage + len(c.staged.FDs))
			c.staged.FDs = append(c.staged.FDs, &fdinfo.FdinfoEntry{Id: &id, Fd: &n, Flags: new(uint32(fdCloexec)), Type: &kind})
			c.holders[id] = holder{p, int(fd), int(n)}
		}
	}
	for _, p := range c.tree {
		c.staged.Space.Vmas = append(c.staged.Space.Vmas, p.Space.GetVmas()...)
		for _, e := range p.FDs {
			add(e.GetId(), e.GetType(), p, e.GetFd())
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.ghosts)) {
		add(id, fdinfo.FdTypes_REG, nil, 0)
	}
	c.high = (c.stage + len(c.staged.FDs) + 63) &^ 63
}

// startTree makes what the processes of a clone have in common, starts them, and makes the first one's own.
func (c *compiler) startTree(r *recipe.Recipe, first *process, h home, end recipe.Addr) {
	c.descriptors(r, c.staged)
	after := c.births()
	if len(c.tree) > 1 {
		c.barrier(r)
		after = c.gateEnd() + 1
	}
	c.looseMemfds(r, after)
	c.forks(r, first, h, end)
	c.setOwners(r)
	c.about(first, func() {
		c.takeDescriptors(r, first)
		c.dropBounding(r, first.missing()&^c.needless())
		c.ownMemory(r, first.Task)
		c.process(r, first.Task)
	})
	r.Call("close what others have", recipe.CloseRange, recipe.Int(c.stage), recipe.Int(c.high), recipe.Int(0))
	if len(c.tree) > 1 {
		r.Call("close what others have", recipe.CloseRange, recipe.Int(c.birthsEnd()), recipe.Int(c.gate()), recipe.Int(0))
	}
	r.Call("close what it was given", recipe.CloseRange, recipe.Int(after), recipe.Int(1<<32-1), recipe.Int(0))
}

// takeDescriptors gives a process its descriptors: copies of the staged ones, at its own numbers.
func (c *compiler) takeDescriptors(r *recipe.Recipe, p *process) {
	taken := make(map[uint32]bool)
	for _, e := range p.FDs {
		if taken[e.GetFd()] {
			c.refuse("descriptor %d: the images have it twice", e.GetFd())
		}
		taken[e.GetFd()] = true
		flags := 0
		if e.GetFlags()&fdCloexec != 0 {
			flags = oCloexec
		}
		r.Call(fmt.Sprintf("descriptor %d", e.GetFd()), recipe.Dup3, recipe.Int(c.holders[e.GetId()].staged), recipe.Int(e.GetFd()), recipe.Int(flags))
	}
	for _, e := range p.FDs {
		fd := int(e.GetFd())
		f, err := c.images.File(e.GetId())
		if h := c.holders[e.GetId()]; err != nil || h.process != p || h.fd != fd {
			continue
		}
		if u := f.GetUsk(); u.GetState() == tcpListen && p.number > 0 {
			// Whoever connects may ask who listens, and is told who has said so last.
			r.Call(fmt.Sprintf("descriptor %d: listen", fd), recipe.Listen, recipe.Int(fd), recipe.Int(u.GetBacklog()))
		}
		if e.GetType() == fdinfo.FdTypes_EVENTPOLL {
			c.fillEpoll(r, p.Task, fd, f.GetEpfd())
		}
	}
}

// holder is the first process that has a file open, the one for which CRIU wrote it down, and its first number there; nil for
// a file that is only mapped.
type holder struct {
	*process
	fd     int
	staged int // the number at which the first process of a clone opens it
}

// ownedFile is an open file that sends somebody a signal when it is ready.
type ownedFile struct {
	name  string
	fd    int
	owner *fown.FownEntry
}

const (
	fSetownEx = 15
	ownerTID  = 0
	ownerPID  = 1
)

// setOwners says to whom files send their signals. A file remembers who said so: it sends no others than that user may.
func (c *compiler) setOwners(r *recipe.Recipe) {
	for _, f := range c.owned {
		o := f.owner
		there := o.GetPid() == c.tree[0].pid() || slices.ContainsFunc(c.tree[0].children, func(p *process) bool { return p.pid() == o.GetPid() })
		if !there || o.GetPidType() != ownerTID && o.GetPidType() != ownerPID {
			c.refuse("%s: sends a signal to %d when it is ready (F_SETOWN), which is neither the first process nor a child of it", f.name, o.GetPid())
		}
		securebits := func(v int) {
			r.Call("security bits", recipe.Prctl, recipe.Int(prSetSecurebits), recipe.Int(v), recipe.Int(0), recipe.Int(0), recipe.Int(0))
		}
		user := o.GetUid() != 0 || o.GetEuid() != 0
		if user {
			securebits(secureKeptForUIDs)
			r.Call("user of an owner", recipe.Setresuid, recipe.Int(o.GetUid()), recipe.Int(o.GetEuid()), recipe.Int(0))
		}
		r.Call("owner of a file", recipe.Fcntl, recipe.Int(f.fd), recipe.Int(fSetownEx), recipe.At(c.data.Put([2]uint32{o.GetPidType(), o.GetPid()})))
		if user {
			r.Call("user again", recipe.Setresuid, recipe.Int(0), recipe.Int(0), recipe.Int(0))
			securebits(0)
		}
	}
}

// looseMemfds makes the memfds that are mapped and open nowhere, once for all processes: CRIU takes all shared memory without
// a file for such. They get numbers from after on.
func (c *compiler) looseMemfds(r *recipe.Recipe, after int) {
	c.loose = make(map[uint64]recipe.Addr)
	for _, v := range c.staged.Space.GetVmas() {
		if v.GetStatus()&criu.VMAMemfd == 0 {
			continue
		}
		inode := c.memfdInode(v)
		if _, made := c.loose[inode]; made || c.heldMemfd(c.staged.FDs, v) >= 0 {
			continue
		}
		low := c.looseMemfd(r, v)
		at := c.data.Space(8)
		r.Call("move it aside", recipe.Fcntl, recipe.Load(low), recipe.Int(fDupfdCloexec), recipe.Int(after)).Into(at)
		r.Call("move it aside", recipe.Close, recipe.Load(low))
		c.loose[inode] = at
	}
}

package template

import (
	"fmt"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

const (
	// maxProcesses is how many processes a container may have: each is forked with the memory of all.
	maxProcesses = 64
	// maxDepth is how far below the first process others may be. Each runs on the stack of the one that forks it.
	maxDepth = 8

	sigChld = 17
)

// process is a process of the container. Sessions, open files and namespaces are inherited by fork and not otherwise, so in
// a clone each is forked by its own parent.
type process struct {
	*criu.Task
	number   int // the first one is 0
	parent   *process
	children []*process
	depth    int
	shadow   shadow

	clone, finish *recipe.Recipe
	threads       []*recipe.Recipe // of every thread but the first
}

func (p *process) pid() uint32 { return p.Tree.GetPid() }

func (p *process) String() string {
	comm := p.Core.GetTc().GetComm()
	if comm == "" {
		comm = p.Core.GetThreadCore().GetComm()
	}
	return fmt.Sprintf("process %d (%s)", p.pid(), comm)
}

// family makes processes of the tasks of the images, parents before their children, and says why it cannot.
func family(tasks []*criu.Task) (all []*process, why string) {
	if len(tasks) == 0 || len(tasks) > maxProcesses {
		return nil, fmt.Sprintf("%d processes", len(tasks))
	}
	byPid := make(map[uint32]*process)
	for i, t := range tasks {
		p := &process{Task: t, number: i, parent: byPid[t.Tree.GetPpid()]}
		switch {
		case t.Space == nil && len(tasks) == 1:
			return nil, "the process is a zombie"
		case t.Space == nil:
			return nil, fmt.Sprintf("%s is a zombie", p)
		case byPid[p.pid()] != nil || i > 0 && p.parent == nil:
			return nil, fmt.Sprintf("%s has no parent in the container", p)
		}
		if p.parent != nil {
			p.depth = p.parent.depth + 1
			p.parent.children = append(p.parent.children, p)
		}
		if p.depth > maxDepth {
			return nil, fmt.Sprintf("%s is more than %d levels below the first one", p, maxDepth)
		}
		byPid[p.pid()] = p
		all = append(all, p)
	}
	return all, ""
}

// about does something for a process, and has what is refused meanwhile name it, if there are others.
func (c *compiler) about(p *process, do func()) {
	before := len(c.reasons)
	do()
	if len(c.tree) > 1 {
		for i, why := range c.reasons[before:] {
			if !strings.HasPrefix(why, "process ") { // of one below it
				c.reasons[before+i] = fmt.Sprintf("%s: %s", p, why)
			}
		}
	}
}

// checkTree refuses what the processes of the container have in common otherwise than by birth.
func (c *compiler) checkTree() {
	first := c.tree[0]
	for _, p := range c.tree[1:] {
		c.about(p, func() {
			c.checkNamespaces(p, first)
			for _, q := range c.tree[:p.number] {
				c.checkShared(p, q)
			}
			c.checkSession(p)
			c.checkGroup(p)
			if p.Core.GetTc().GetCgSet() != first.Core.GetTc().GetCgSet() {
				c.refuse("it is in another cgroup than the first process")
			}
		})
	}
	by := make(map[uint64]*process)
	for _, p := range c.tree {
		for _, v := range p.Space.GetVmas() {
			if v.GetStatus()&criu.VMAAnonShared == 0 || v.GetStatus()&criu.VMAMemfd != 0 {
				continue
			}
			if q := by[v.GetShmid()]; q != nil && q != p { // CRIU makes it a memfd, where there are memfds
				c.refuse("%s: mapping %x-%x: shared with %s, and not written down as a memfd", p, v.GetStart(), v.GetEnd(), q)
			}
			by[v.GetShmid()] = p
		}
	}
	if h := c.host.mappings; h > 0 {
		n := uint64(0)
		for _, p := range c.tree {
			n += uint64(len(p.Space.GetVmas()))
		}
		if n+64 > h {
			c.refuse("%d mappings of all processes, and this host lets a process have %d (vm.max_map_count)", n, h)
		}
	}
}

func (c *compiler) checkNamespaces(p, first *process) {
	a, b := p.IDs, first.IDs
	for _, ns := range []struct {
		name      string
		its, ours uint32
	}{
		{"pid", a.GetPidNsId(), b.GetPidNsId()}, {"network", a.GetNetNsId(), b.GetNetNsId()}, {"ipc", a.GetIpcNsId(), b.GetIpcNsId()},
		{"uts", a.GetUtsNsId(), b.GetUtsNsId()}, {"mount", a.GetMntNsId(), b.GetMntNsId()}, {"user", a.GetUserNsId(), b.GetUserNsId()},
		{"cgroup", a.GetCgroupNsId(), b.GetCgroupNsId()}, {"time", a.GetTimeNsId(), b.GetTimeNsId()},
	} {
		if ns.its != ns.ours {
			c.refuse("it has another %s namespace than the first process", ns.name)
		}
	}
}

// checkShared refuses two processes that are threads in all but name.
func (c *compiler) checkShared(p, q *process) {
	a, b := p.IDs, q.IDs
	for _, o := range []struct {
		name        string
		its, others uint32
	}{
		{"memory", a.GetVmId(), b.GetVmId()}, {"table of descriptors", a.GetFilesId(), b.GetFilesId()},
		{"directories", a.GetFsId(), b.GetFsId()}, {"signal handlers", a.GetSighandId(), b.GetSighandId()},
	} {
		if o.its == o.others {
			c.refuse("it shares its %s with %s", o.name, q)
		}
	}
}

// checkSession refuses a session that is neither the process's own nor inherited.
func (c *compiler) checkSession(p *process) {
	switch sid := p.Tree.GetSid(); {
	case sid == p.pid() && p.Tree.GetPgid() != sid:
		c.refuse("it leads a session and not its process group")
	case sid != p.pid() && sid != p.parent.Tree.GetSid():
		c.refuse("it is in the session %d, which is not that of its parent", sid)
	}
}

// checkGroup refuses a process group that is neither the process's own, nor inherited, nor that of another child of its
// parent.
func (c *compiler) checkGroup(p *process) {
	pgid := p.Tree.GetPgid()
	if pgid == p.pid() || pgid == p.parent.Tree.GetPgid() && p.Tree.GetSid() == p.parent.Tree.GetSid() {
		return
	}
	if l := p.leader(); l == nil || l.Tree.GetSid() != p.Tree.GetSid() {
		c.refuse("it is in the process group %d, whose leader has ended, or is no other child of its parent", pgid)
	}
}

// leads says whether a process leads a group that others may join.
func (p *process) leads() bool {
	return p.Tree.GetPgid() == p.pid() && p.Tree.GetSid() != p.pid()
}

// leader returns the child of the same parent that leads the process's group; nil if there is none.
func (p *process) leader() *process {
	i := slices.IndexFunc(p.parent.children, func(q *process) bool { return q != p && q.pid() == p.Tree.GetPgid() && q.leads() })
	if i < 0 {
		return nil
	}
	return p.parent.children[i]
}

// forks starts the processes below p: those that lead groups first, since others join these as soon as they are there. What
// only one of them needs is not copied by the next fork.
func (c *compiler) forks(r *recipe.Recipe, p *process, h home, end recipe.Addr) {
	order := slices.Clone(p.children)
	slices.SortStableFunc(order, func(a, b *process) int {
		switch {
		case a.leads() == b.leads():
			return 0
		case a.leads():
			return -1
		}
		return 1
	})
	for _, child := range order {
		var at recipe.Addr
		c.about(child, func() { at = c.member(child, h, end) })
		args := c.data.Put(cloneArgs{ExitSignal: sigChld, SetTID: uint64(c.data.Put(child.pid())), SetTIDSize: 1})
		r.Call(fmt.Sprintf("start %s", child), recipe.Process, recipe.At(args), recipe.At(at)).Want(int(child.pid()))
		if child.leads() {
			r.Call(fmt.Sprintf("process group of %s", child), recipe.Setpgid, recipe.Int(child.pid()), recipe.Int(child.pid()))
		}
		child.dropShadows(r)
	}
}

// dropShadows unmaps the memory of a process and of those below it.
func (p *process) dropShadows(r *recipe.Recipe) {
	if s := p.shadow; s.end > s.start {
		r.Call(fmt.Sprintf("unmap the memory of %s", p), recipe.Munmap, recipe.Int(s.start), recipe.Int(s.end-s.start))
	}
	for _, child := range p.children {
		child.dropShadows(r)
	}
}

// member writes the recipes of a process below the first, and returns where its part of a control block lies.
func (c *compiler) member(p *process, h home, end recipe.Addr) recipe.Addr {
	r := c.data.New()
	if p.Tree.GetSid() == p.pid() {
		r.Call("session", recipe.Setsid)
	} else if pgid := p.Tree.GetPgid(); pgid == p.pid() || p.leader() != nil {
		r.Call("process group", recipe.Setpgid, recipe.Int(0), recipe.Int(pgid))
	}
	c.forks(r, p, h, end)
	c.takeMemory(r, p, h, end)
	c.takeDescriptors(r, p)
	c.inherited(r, p)
	c.ownMemory(r, p.Task)
	c.process(r, p.Task)
	r.Call("close what others have", recipe.CloseRange, recipe.Int(c.stage), recipe.Int(c.births()), recipe.Int(0))
	r.Call("close what others have", recipe.CloseRange, recipe.Int(c.gateEnd()), recipe.Int(1<<32-1), recipe.Int(0))
	if fault.Point("template.kill") != nil {
		r.Call("failpoint", recipe.Kill, recipe.Int(p.pid()), recipe.Int(sigKill))
	}
	if fault.Point("template.fail") != nil {
		r.Call("failpoint", recipe.Close, recipe.Int(-1))
	}
	c.complete(r, p, h)
	return c.data.Put(processControl{
		Clone: recipeRef{uint64(p.clone.Store()), uint64(p.clone.Len())}, Finish: recipeRef{uint64(p.finish.Store()), uint64(p.finish.Len())},
		Frame: uint64(h.at + codeRoom), Threads: uint64(len(p.Threads) - 1), Number: uint64(p.number),
		Report: uint64(c.birthsEnd()), Gate: uint64(c.gate()),
	})
}

// The processes of a clone have two pipes, at numbers where what the clone was given has been: by one they say that they are
// complete, and the other one ends when all are.
func (c *compiler) births() int    { return c.givenFD(givenStdin) }
func (c *compiler) birthsEnd() int { return c.births() + 1 }
func (c *compiler) gate() int      { return c.births() + 2 }
func (c *compiler) gateEnd() int   { return c.births() + 3 }

// barrier makes the pipes. No descriptor below the staged ones is open, and none that was given is needed any more.
func (c *compiler) barrier(r *recipe.Recipe) {
	r.Call("close what it was given", recipe.CloseRange, recipe.Int(c.births()), recipe.Int(c.high+keptAt-1), recipe.Int(0))
	for _, at := range []int{c.births(), c.gate()} {
		r.Call("pipe between processes", recipe.Pipe2, recipe.At(c.data.Space(8)), recipe.Int(oCloexec))
		r.Call("move it", recipe.Dup3, recipe.Int(0), recipe.Int(at), recipe.Int(oCloexec))
		r.Call("move it", recipe.Dup3, recipe.Int(1), recipe.Int(at+1), recipe.Int(oCloexec))
		r.Call("move it", recipe.CloseRange, recipe.Int(0), recipe.Int(1), recipe.Int(0))
	}
}

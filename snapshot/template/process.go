package template

import (
	"fmt"
	"path"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-sa"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
	"google.golang.org/protobuf/proto"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// Numbers of prctl and friends, as in the kernel's headers.
const (
	prSetPdeathsig      = 1
	prSetDumpable       = 4
	prSetName           = 15
	prCapbsetDrop       = 24
	prSetSecurebits     = 28
	prSetChildSubreaper = 36
	prSetNoNewPrivs     = 38
	prSetTHPDisable     = 41
	prCapAmbient        = 47
	prCapAmbientRaise   = 2
	prTimerRestoreIDs   = 77
	secbitNoSetuidFixup = 1 << 2
	secbitKeepCaps      = 1 << 4
	secureKeptForUIDs   = secbitNoSetuidFixup | secbitKeepCaps
	capVersion3         = 0x20080522
	lastCapability      = 40
	sigKill, sigStop    = 9, 19
	lastSignal          = 64
	alive               = 1
)

// checkProcess refuses processes that are in a state which a clone cannot be put into.
func (c *compiler) checkProcess(t *criu.Task) {
	tc := t.Core.GetTc()
	if t.Core.GetMtype() != criu_core.CoreEntry_X86_64 {
		c.refuse("the process is one of %s", t.Core.GetMtype())
	}
	if tc.GetTaskState() != alive {
		c.refuse("the process is stopped")
	}
	for _, s := range signalActions(tc.GetSigactions()) {
		if s.GetCompatSigaction() {
			c.refuse("a signal handler of 32 bits")
		}
	}
}

// checkFirst refuses a container whose first process is not one that a clone's can be.
func (c *compiler) checkFirst(t *criu.Task) {
	if t.Tree.GetPid() != 1 || t.Tree.GetPgid() != 1 || t.Tree.GetSid() != 1 {
		c.refuse("the process is not the first of its pid namespace, its session and its process group")
	}
	own := c.images.RootNamespaces()
	if own.GetUserNsId() != t.IDs.GetUserNsId() {
		c.refuse("a user namespace")
	}
	if own.GetPidNsId() == t.IDs.GetPidNsId() || own.GetMntNsId() == t.IDs.GetMntNsId() {
		c.refuse("the process has no pid namespace or no mount namespace of its own")
	}
	if own.GetUtsNsId() == t.IDs.GetUtsNsId() || own.GetIpcNsId() == t.IDs.GetIpcNsId() {
		c.refuse("the process has the host's name, or its shared memory, for its own") // a clone's name would become the host's
	}
	for _, pattern := range []string{"ipcns-msg-*.img", "ipcns-sem-*.img"} {
		if has, err := c.images.Has(pattern); err != nil || has {
			c.refuse("System V messages or semaphores")
		}
	}
}

// inherited adds to r what the template has of the first process and each fork of it inherits. What p, if that is another
// one, has in common with the first process it has so already.
func (c *compiler) inherited(r *recipe.Recipe, p *process) {
	has := c.tree[0].Task
	if p.number == 0 {
		has = &criu.Task{}
	}
	was, is := signalActions(has.Core.GetTc().GetSigactions()), signalActions(p.Core.GetTc().GetSigactions())
	for sig := 1; sig <= lastSignal; sig++ {
		sa, old := is[sig], was[sig]
		if proto.Equal(sa, old) {
			continue
		}
		at := r.Data().Put([4]uint64{sa.GetSigaction(), sa.GetFlags(), sa.GetRestorer(), sa.GetMask()})
		r.Call(fmt.Sprintf("action of signal %d", sig), recipe.RtSigaction, recipe.Int(sig), recipe.At(at), recipe.Int(0), recipe.Int(8))
	}
	if of := p.Core.GetTc().GetPersonality(); of != has.Core.GetTc().GetPersonality() {
		r.Call("personality", recipe.Personality, recipe.Int(of))
	}
	if off := p.Space.GetThpDisabled(); off != has.Space.GetThpDisabled() {
		v := 0
		if off {
			v = 1
		}
		r.Call("huge pages", recipe.Prctl, recipe.Int(prSetTHPDisable), recipe.Int(v), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	}
	c.groups(r, p.Core.GetThreadCore().GetCreds())
	if p.number == 0 {
		c.dropBounding(r, c.needless())
	} else {
		c.dropBounding(r, p.missing()&^c.needless())
	}
}

// missing are the capabilities that are not in a process's bounding set.
func (p *process) missing() uint64 {
	return ^capabilities(p.Core.GetThreadCore().GetCreds().GetCapBnd())
}

// needless are the capabilities that are in no process's bounding set.
func (c *compiler) needless() uint64 {
	mask := ^uint64(0)
	for _, p := range c.tree {
		mask &= p.missing()
	}
	return mask
}

func (c *compiler) dropBounding(r *recipe.Recipe, mask uint64) {
	for n := range lastCapability + 1 {
		if mask>>n&1 == 1 {
			r.Call(fmt.Sprintf("drop capability %d", n), recipe.Prctl, recipe.Int(prCapbsetDrop), recipe.Int(n), recipe.Int(0), recipe.Int(0), recipe.Int(0)).Try()
		}
	}
}

// signalActions returns the actions of an image by signal: the image has all signals but those that cannot be caught.
func signalActions(all []*criu_sa.SaEntry) map[int]*criu_sa.SaEntry {
	out := make(map[int]*criu_sa.SaEntry)
	sig := 0
	for _, sa := range all {
		if sig++; sig == sigKill || sig == sigStop {
			sig++
		}
		if sa.GetSigaction() != 0 || sa.GetFlags() != 0 || sa.GetMask() != 0 {
			out[sig] = sa
		}
	}
	return out
}

func (c *compiler) groups(r *recipe.Recipe, cr *creds.CredsEntry) {
	list := r.Data().Put(cr.GetGroups())
	r.Call("groups", recipe.Setgroups, recipe.Int(len(cr.GetGroups())), recipe.At(list))
}

func capabilities(words []uint32) uint64 {
	var all uint64
	for i, w := range words[:min(len(words), 2)] {
		all |= uint64(w) << (32 * i)
	}
	return all
}

// process adds to r what is a clone's own and not a matter of one thread. /proc is mounted.
func (c *compiler) process(r *recipe.Recipe, t *criu.Task) {
	tc := t.Core.GetTc()
	r.Call("umask", recipe.Umask, recipe.Int(t.FS.GetUmask()))
	if adj := tc.GetOomScoreAdj(); adj != 0 { // before the root changes, which may have no /proc
		c.writeFile(r, "/proc/self/oom_score_adj", fmt.Sprint(adj)).Try()
	}
	c.watches(r, t)
	c.directories(r, t)
	if tc.GetChildSubreaper() {
		r.Call("child subreaper", recipe.Prctl, recipe.Int(prSetChildSubreaper), recipe.Int(1), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	}
	for i, l := range tc.GetRlimits().GetRlimits() {
		at := r.Data().Put([2]uint64{l.GetCur(), l.GetMax()})
		// As CRIU has it: a limit that cannot be raised, for want of CAP_SYS_RESOURCE, stays as low as it is.
		r.Call(fmt.Sprintf("limit %d", i), recipe.Prlimit64, recipe.Int(0), recipe.Int(i), recipe.At(at), recipe.Int(0)).Try()
	}
	const fieldMembarrier = 22
	registered := uint64(0)
	if v := unknownNumbers(tc, fieldMembarrier); len(v) > 0 {
		registered = v[0]
	}
	for command := uint64(1); command != 0 && command <= registered; command <<= 1 {
		if registered&command != 0 {
			r.Call("membarrier", recipe.Membarrier, recipe.Int(command), recipe.Int(0), recipe.Int(0))
		}
	}
	c.pending(r, tc.GetSignalsS(), func(sig int, info recipe.Addr) {
		r.Call(fmt.Sprintf("pending signal %d", sig), recipe.RtSigqueueinfo, recipe.Int(t.Tree.GetPid()), recipe.Int(sig), recipe.At(info))
	})
}

// directories sets the working directory and the root.
func (c *compiler) directories(r *recipe.Recipe, t *criu.Task) {
	cwd, root := "/", c.directory("root", t.FS.GetRootId())
	if c.remapped(t.FS.GetCwdId()) {
		c.deletedDirectory(r, t)
	} else {
		cwd = c.directory("working directory", t.FS.GetCwdId())
	}
	if cwd != "/" {
		r.Call("working directory "+cwd, recipe.Chdir, recipe.At(r.Data().String(cwd)))
	}
	if root != "/" {
		r.Call("root "+root, recipe.Chroot, recipe.At(r.Data().String(root)))
	}
}

func (c *compiler) directory(what string, id uint32) string {
	f, err := c.images.File(id)
	switch {
	case err != nil || f.GetReg() == nil:
		c.refuse("the %s is not in the images", what)
	case c.remapped(id):
		c.refuse("the %s %s was deleted", what, f.GetReg().GetName())
	default:
		return f.GetReg().GetName()
	}
	return "/"
}

// deletedDirectory makes the working directory again that was deleted: under its old name, which it then loses.
func (c *compiler) deletedDirectory(r *recipe.Recipe, t *criu.Task) {
	id := t.FS.GetCwdId()
	f, _ := c.images.File(id)
	name := f.GetReg().GetName()
	what := fmt.Sprintf("the working directory %s, which was deleted", name)
	remaps, _ := c.images.Remaps() // it is one of them
	remap := remaps[id]
	g, err := c.images.Ghost(remap.GetRemapId())
	if err != nil || remap.GetRemapType() != remap_file_path.RemapType_GHOST || !path.IsAbs(name) {
		c.refuse("%s", what)
		return
	}
	if len(c.tree) > 1 { // others may look for something at its old name meanwhile
		c.refuse("%s, in a container of several processes", what)
		return
	}
	// Who else has it would get another.
	for other, m := range remaps {
		if other != id && m.GetRemapId() == remap.GetRemapId() && m.GetRemapType() == remap.GetRemapType() {
			c.refuse("%s and is open as well", what)
			return
		}
	}
	d, e := r.Data(), g.Entry
	const noReplace, removeDir = 1, 0x200
	at, park, here := recipe.At(d.String(name)), recipe.At(d.String(name+parked)), recipe.At(d.String("."))
	cwd := recipe.Int(atFDCWD)
	r.Call("move away what is at "+name, recipe.Renameat2, cwd, at, cwd, park, recipe.Int(noReplace)).Try()
	r.Call("make "+name, recipe.Mkdirat, cwd, at, recipe.Int(0o700))
	r.Call("working directory "+name, recipe.Chdir, at)
	r.Call("its owner", recipe.Fchownat, cwd, here, recipe.Int(e.GetUid()), recipe.Int(e.GetGid()), recipe.Int(0))
	r.Call("its permissions", recipe.Fchmodat, cwd, here, recipe.Int(e.GetMode()&0o7777))
	r.Call("delete "+name, recipe.Unlinkat, cwd, at, recipe.Int(removeDir))
	r.Call("move back what was at "+name, recipe.Renameat2, cwd, park, cwd, at, recipe.Int(noReplace)).Try()
}

// remapped says whether a file's name is not its own: it was deleted, or belonged to a process.
func (c *compiler) remapped(id uint32) bool {
	remaps, err := c.images.Remaps()
	_, is := remaps[id]
	return err != nil || is
}

const oWronly = 1

// writeFile adds the calls that write a file, whose descriptor is the lowest one; the last of them closes it.
func (c *compiler) writeFile(r *recipe.Recipe, name, content string) *recipe.Op {
	fd := r.Data().Space(8)
	r.Call("open "+name, recipe.Openat, recipe.Int(atFDCWD), recipe.At(r.Data().String(name)), recipe.Int(oWronly|oCloexec), recipe.Int(0)).Into(fd)
	op := r.Call("write "+name, recipe.Write, recipe.Load(fd), recipe.At(r.Data().Bytes([]byte(content))), recipe.Int(len(content)))
	r.Call("close "+name, recipe.Close, recipe.Load(fd))
	return op
}

// pending makes signals pending again.
func (c *compiler) pending(r *recipe.Recipe, q *siginfo.SignalQueueEntry, queue func(sig int, info recipe.Addr)) {
	for _, s := range q.GetSignals() {
		b := s.GetSiginfo()
		if len(b) < 16 {
			c.refuse("a pending signal that the images do not describe")
			continue
		}
		queue(int(int32(uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24)), r.Data().Bytes(b))
	}
}

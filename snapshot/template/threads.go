package template

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// Flags of clone, as in the kernel's headers.
const (
	cloneVM            = 0x100
	cloneFS            = 0x200
	cloneFiles         = 0x400
	cloneSighand       = 0x800
	cloneParent        = 0x8000
	cloneThread        = 0x10000
	cloneNewns         = 0x20000
	cloneSysvsem       = 0x40000
	cloneSettls        = 0x80000
	cloneChildClearTID = 0x200000
	cloneNewuts        = 0x4000000
	cloneNewipc        = 0x8000000
	cloneNewpid        = 0x20000000
	cloneNewnet        = 0x40000000
	cloneNewtime       = 0x80

	likeThread = cloneVM | cloneFS | cloneFiles | cloneSighand | cloneThread | cloneSysvsem

	archSetGS = 0x1001
	archSetFS = 0x1002
)

// threads adds the start of every thread but the first. frames is where their signal frames begin; the first one is the
// first thread's.
func (c *compiler) threads(r *recipe.Recipe, p *process, frames recipe.Addr, stride int) {
	d := r.Data()
	for i, core := range p.Threads[1:] {
		tid := p.Tree.GetThreads()[i+1]
		own := d.New()
		c.thread(own, core, p.pid(), tid)
		c.dropPrivileges(own, core.GetThreadCore())
		ref := d.Put(recipeRef{Ops: uint64(own.Store()), N: uint64(own.Len())})
		p.threads = append(p.threads, own)
		args := cloneArgs{
			Flags: likeThread | cloneSettls, TLS: core.GetThreadInfo().GetGpregs().GetFsBase(),
			SetTID: uint64(d.Put(tid)), SetTIDSize: 1,
			Stack: uint64(d.Space(threadStack)), StackSize: threadStack,
		}
		if tidAddress := core.GetThreadInfo().GetClearTidAddr(); tidAddress != 0 {
			args.Flags |= cloneChildClearTID
			args.ChildTID = tidAddress
		}
		r.Call(fmt.Sprintf("thread %d", tid), recipe.Thread, recipe.At(d.Put(args)), recipe.At(ref), recipe.At(frames+recipe.Addr((i+1)*stride)))
	}
}

// leader adds what is the first thread's own.
func (c *compiler) leader(r *recipe.Recipe, t *criu.Task) {
	c.thread(r, t.Core, t.Tree.GetPid(), t.Tree.GetPid())
	info := t.Core.GetThreadInfo()
	r.Call("thread id's address", recipe.SetTidAddress, recipe.Int(info.GetClearTidAddr()))
	r.Call("FS base", recipe.ArchPrctl, recipe.Int(archSetFS), recipe.Int(info.GetGpregs().GetFsBase()))
}

// thread adds what only a thread itself can do.
func (c *compiler) thread(r *recipe.Recipe, core *criu_core.CoreEntry, pid, tid uint32) {
	info, th := core.GetThreadInfo(), core.GetThreadCore()
	c.checkThread(core, tid)
	what := func(s string) string { return fmt.Sprintf("%s of thread %d", s, tid) }
	if th.GetFutexRlaLen() != 0 {
		r.Call(what("robust list"), recipe.SetRobustList, recipe.Int(th.GetFutexRla()), recipe.Int(th.GetFutexRlaLen()))
	}
	if rs := th.GetRseqEntry(); rs.GetRseqAbiPointer() != 0 {
		r.Call(what("rseq"), recipe.Rseq, recipe.Int(rs.GetRseqAbiPointer()), recipe.Int(rs.GetRseqAbiSize()), recipe.Int(0), recipe.Int(rs.GetSignature()))
	}
	if gs := info.GetGpregs().GetGsBase(); gs != 0 {
		r.Call(what("GS base"), recipe.ArchPrctl, recipe.Int(archSetGS), recipe.Int(gs))
	}
	comm := th.GetComm()
	if comm == "" {
		comm = core.GetTc().GetComm()
	}
	r.Call(what("name"), recipe.Prctl, recipe.Int(prSetName), recipe.At(r.Data().String(comm)), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	if nice := th.GetSchedNice(); nice != 0 {
		r.Call(what("nice"), recipe.Setpriority, recipe.Int(0), recipe.Int(0), recipe.Int(nice))
	}
	if policy := th.GetSchedPolicy(); policy != 0 {
		r.Call(what("scheduling"), recipe.SchedSetsched, recipe.Int(0), recipe.Int(policy), recipe.At(r.Data().Put(th.GetSchedPrio())))
	}
	c.pending(r, th.GetSignalsP(), func(sig int, at recipe.Addr) {
		r.Call(what(fmt.Sprintf("pending signal %d", sig)), recipe.RtTgsigqueueinfo, recipe.Int(pid), recipe.Int(tid), recipe.Int(sig), recipe.At(at))
	})
}

func (c *compiler) checkThread(core *criu_core.CoreEntry, tid uint32) {
	info, th := core.GetThreadInfo(), core.GetThreadCore()
	if info.GetGpregs().GetMode() != 1 {
		c.refuse("thread %d runs code of 32 bits", tid)
	}
	for _, s := range info.GetTls() {
		if !s.GetSegNotPresent() {
			c.refuse("thread %d has a segment of thread-local storage", tid)
		}
	}
	if shadowStack(info.GetFpregs().GetXsave()) {
		c.refuse("thread %d has a shadow stack", tid)
	}
	if th.GetRseqEntry().GetRseqCsPointer() != 0 {
		c.refuse("thread %d was inside of a restartable sequence", tid)
	}
	if cr := th.GetCreds(); cr.GetLsmProfile() != "" || cr.GetLsmSockcreate() != "" || len(cr.GetApparmorData()) > 0 {
		c.refuse("thread %d has a security label", tid)
	}
}

// dropPrivileges gives a thread the captured one's ids and capabilities. It has all capabilities before; the bounding set,
// and groups, are inherited from the template.
func (c *compiler) dropPrivileges(r *recipe.Recipe, th *criu_core.ThreadCoreEntry) {
	cr := th.GetCreds()
	const whatFor = "credentials"
	set := func(what string, call recipe.Call, args ...recipe.Arg) { r.Call(what, call, args...) }
	prctl := func(op, v int) {
		set(whatFor, recipe.Prctl, recipe.Int(op), recipe.Int(v), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	}
	plain := cr.GetUid() == 0 && cr.GetEuid() == 0 && cr.GetSuid() == 0 && cr.GetFsuid() == 0
	if !plain {
		prctl(prSetSecurebits, secureKeptForUIDs)
	}
	if cr.GetGid() != 0 || cr.GetEgid() != 0 || cr.GetSgid() != 0 || cr.GetFsgid() != 0 {
		set("group ids", recipe.Setresgid, recipe.Int(cr.GetGid()), recipe.Int(cr.GetEgid()), recipe.Int(cr.GetSgid()))
		set("group ids", recipe.Setfsgid, recipe.Int(cr.GetFsgid()))
	}
	if !plain {
		set("user ids", recipe.Setresuid, recipe.Int(cr.GetUid()), recipe.Int(cr.GetEuid()), recipe.Int(cr.GetSuid()))
		set("user ids", recipe.Setfsuid, recipe.Int(cr.GetFsuid()))
	}
	if !plain || cr.GetSecbits() != 0 {
		prctl(prSetSecurebits, int(cr.GetSecbits()))
	}
	if noNewPrivs(cr) {
		prctl(prSetNoNewPrivs, 1)
	}
	header := r.Data().Put([2]uint32{capVersion3, 0})
	eff, prm, inh := capabilities(cr.GetCapEff()), capabilities(cr.GetCapPrm()), capabilities(cr.GetCapInh())
	data := r.Data().Put([6]uint32{uint32(eff), uint32(prm), uint32(inh), uint32(eff >> 32), uint32(prm >> 32), uint32(inh >> 32)})
	set("capabilities", recipe.Capset, recipe.At(header), recipe.At(data))
	for n := range lastCapability + 1 {
		if ambient(cr)>>n&1 == 1 {
			set("ambient capability", recipe.Prctl, recipe.Int(prCapAmbient), recipe.Int(prCapAmbientRaise), recipe.Int(n), recipe.Int(0), recipe.Int(0))
		}
	}
	if sig := th.GetPdeathSig(); sig != 0 { // a change of credentials has cleared it
		set("signal at the parent's death", recipe.Prctl, recipe.Int(prSetPdeathsig), recipe.Int(sig), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	}
}

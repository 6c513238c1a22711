package template

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/timer"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// timers adds the interval timers and the POSIX timers of a process, all of whose threads are there: some timers are for
// one of them.
func (c *compiler) timers(r *recipe.Recipe, t *timer.TaskTimersEntry) {
	for which, i := range []*timer.ItimerEntry{t.GetReal(), t.GetVirt(), t.GetProf()} {
		sec, usec := i.GetVsec(), i.GetVusec()
		if sec == 0 && usec == 0 { // between its end and its signal: that is pending, and nobody would set it again
			sec, usec = i.GetIsec(), i.GetIusec()
		}
		if sec == 0 && usec == 0 {
			continue
		}
		at := r.Data().Put([4]uint64{i.GetIsec(), i.GetIusec(), sec, usec})
		r.Call(fmt.Sprintf("interval timer %d", which), recipe.Setitimer, recipe.Int(which), recipe.At(at), recipe.Int(0))
	}
	if len(t.GetPosix()) == 0 {
		return
	}
	if c.host.noTimerIDs {
		c.refuse("POSIX timers, whose ids this kernel cannot give again (Linux 6.15 can)")
	}
	r.Call("choose ids of timers", recipe.Prctl, recipe.Int(prTimerRestoreIDs), recipe.Int(1), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	for _, p := range t.GetPosix() {
		c.posixTimer(r, p)
	}
	r.Call("do not choose ids of timers", recipe.Prctl, recipe.Int(prTimerRestoreIDs), recipe.Int(0), recipe.Int(0), recipe.Int(0), recipe.Int(0))
}

// sigevent is the kernel's struct sigevent.
type sigevent struct {
	Value         uint64
	Signo, Notify uint32
	ThreadID      uint32
	_             [44]byte
}

func (c *compiler) posixTimer(r *recipe.Recipe, p *timer.PosixTimerEntry) {
	what := fmt.Sprintf("timer %d", p.GetItId())
	event := r.Data().Put(sigevent{Value: p.GetSivalPtr(), Signo: p.GetSiSigno(), Notify: p.GetItSigevNotify(), ThreadID: uint32(p.GetNotifyThreadId())})
	id := r.Data().Put(p.GetItId())
	r.Call(what, recipe.TimerCreate, recipe.Int(p.GetClockId()), recipe.At(event), recipe.At(id))
	// An expired one that does not repeat is set to nothing, which disarms it.
	at := r.Data().Put([4]uint64{p.GetIsec(), p.GetInsec(), p.GetVsec(), p.GetVnsec()})
	r.Call(what, recipe.TimerSettime, recipe.Int(p.GetItId()), recipe.Int(0), recipe.At(at), recipe.Int(0))
}

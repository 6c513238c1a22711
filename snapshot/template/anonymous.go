package template

import (
	"fmt"
	"math"
	"slices"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/eventfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/eventpoll"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fsnotify"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/signalfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// flagsOf are the flags that every call has which makes an eventfd or the like.
func (d *descriptors) flagsOf(id, flags uint32) uint32 {
	return flags&syscall.O_NONBLOCK | d.cloexec(id)
}

// eventfd makes a counter. Whether it is a semaphore CRIU does not record.
func (d *descriptors) eventfd(id uint32, e *eventfd.EventfdFileEntry) {
	made := d.flagsOf(id, e.GetFlags())
	start := e.GetCounter()
	if start > math.MaxUint32 {
		start = 0
	}
	h := d.make(id, "eventfd", recipe.Eventfd2, recipe.Int(start), recipe.Int(made))
	d.place(h, id, made)
	if start != e.GetCounter() {
		d.call(id, "count", recipe.Write, h.arg(), d.int64s(e.GetCounter()), recipe.Int(8)).Want(8)
	}
	d.params(id, h.arg(), e.GetFlags(), made, e.GetFown())
}

// signalfd waits for a set of signals.
func (d *descriptors) signalfd(id uint32, e *signalfd.SignalfdEntry) {
	made := d.flagsOf(id, e.GetFlags())
	h := d.make(id, "signalfd", recipe.Signalfd4, recipe.Int(-1), d.int64s(e.GetSigmask()), recipe.Int(8), recipe.Int(made))
	d.place(h, id, made)
	d.params(id, h.arg(), e.GetFlags(), made, e.GetFown())
}

// inotify has no watches: they are on inodes, which a clone has others of.
func (d *descriptors) inotify(id uint32, e *fsnotify.InotifyFileEntry) {
	made := d.flagsOf(id, e.GetFlags())
	h := d.make(id, "inotify", recipe.InotifyInit1, recipe.Int(made))
	d.place(h, id, made)
	d.params(id, h.arg(), e.GetFlags(), made, e.GetFown())
}

// Clocks, flags and requests of timerfd.
const (
	clockRealtime, clockMonotonic, clockBoottime, clockRealtimeAlarm, clockBoottimeAlarm = 0, 1, 7, 8, 9

	timerAbsolute     = 1
	timerCancelOnSet  = 2
	timerfdSetTicks   = 0x40085400 // TFD_IOC_SET_TICKS
	nanosecondsPerSec = 1e9
)

// timerfd makes a timer. What the images have of its time is always how long it still was to run.
func (d *descriptors) timerfd(id uint32, e *timerfd.TimerfdEntry) {
	made := d.flagsOf(id, e.GetFlags())
	h := d.make(id, "timerfd", recipe.TimerfdCreate, recipe.Int(e.GetClockid()), recipe.Int(made))
	d.place(h, id, made)
	d.params(id, h.arg(), e.GetFlags(), made, e.GetFown())

	left := e.GetVsec()*nanosecondsPerSec + e.GetVnsec()
	interval := e.GetIsec()*nanosecondsPerSec + e.GetInsec()
	ticks := e.GetTicks()
	if left == 0 && interval != 0 && ticks > 0 {
		// A periodic timer that has ticked is wound up again when that is read. It is to tick now, then, and wait for that.
		left = 1
		if ticks == 1 {
			ticks = 0 // as many as it will have by itself
		}
	}
	flags := e.GetSettimeFlags()
	if left != 0 && flags&timerAbsolute != 0 {
		left += d.clock(id, e.GetClockid())
	}
	if left != 0 || interval != 0 || flags != 0 {
		d.call(id, "set the timer", recipe.TimerfdSettime, h.arg(), recipe.Int(flags), d.int64s(interval/nanosecondsPerSec,
			interval%nanosecondsPerSec, left/nanosecondsPerSec, left%nanosecondsPerSec), recipe.Int(0))
	}
	if ticks != 0 {
		d.call(id, "set ticks", recipe.Ioctl, h.arg(), recipe.Int(timerfdSetTicks), d.int64s(ticks))
	}
}

// clock returns what a clock showed at the capture. Those of the container go on from there in a clone; the time of the day
// does not wait for it.
func (d *descriptors) clock(id, clock uint32) uint64 {
	if clock == clockRealtime || clock == clockRealtimeAlarm {
		return uint64(d.c.config.Created.UnixNano())
	}
	t, err := d.c.images.Clocks()
	if err != nil {
		d.refuse(id, "a timer: %v", err)
	}
	at := t.GetMonotonic()
	switch {
	case t == nil:
		d.refuse(id, "a timer for a certain time, and the container's clocks are not in the images")
	case clock == clockBoottime || clock == clockBoottimeAlarm:
		at = t.GetBoottime()
	}
	return at.GetTvSec()*nanosecondsPerSec + at.GetTvNsec()
}

// epoll makes an empty set. It is filled when all descriptors are there.
func (d *descriptors) epoll(id uint32, e *eventpoll.EventpollFileEntry) {
	made := d.cloexec(id)
	h := d.make(id, "epoll", recipe.EpollCreate1, recipe.Int(made))
	d.place(h, id, made)
	d.params(id, h.arg(), e.GetFlags(), 0, e.GetFown())
}

const epollAdd = 1

// fillEpolls fills the epoll sets of a process that is the only one.
func (d *descriptors) fillEpolls() {
	for _, id := range d.ids {
		if d.byID[id][0].GetType() == fdinfo.FdTypes_EVENTPOLL {
			d.c.fillEpoll(d.r, d.t, d.fd(id), d.files[id].GetEpfd())
		}
	}
}

// fillEpoll registers descriptors of a process with its epoll set: under the numbers and with the events that they had.
func (c *compiler) fillEpoll(r *recipe.Recipe, t *criu.Task, fd int, set *eventpoll.EventpollFileEntry) {
	var seen []uint32
	for _, e := range set.GetTfd() {
		n := e.GetTfd()
		has := slices.ContainsFunc(t.FDs, func(e *fdinfo.FdinfoEntry) bool { return e.GetFd() == n })
		if !has || slices.Contains(seen, n) {
			c.refuse("descriptor %d: an epoll set with something that was registered as descriptor %d and has another number since", fd, n)
			continue
		}
		seen = append(seen, n)
		event := struct {
			Events uint32
			Data   uint64
		}{e.GetEvents(), e.GetData()}
		r.Call(fmt.Sprintf("descriptor %d: register", fd), recipe.EpollCtl, recipe.Int(fd), recipe.Int(epollAdd), recipe.Int(n), recipe.At(r.Data().Put(event)))
	}
}

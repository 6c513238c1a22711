package template

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pipe"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// pipeSize is how much a new pipe holds.
const pipeSize = 65536

// pipe makes a pipe and all that is open of it.
func (d *descriptors) pipe(id uint32, e *pipe.PipeEntry) {
	if n := d.given(d.files[id]); n >= 0 {
		d.givenPipe(id, e, n)
		return
	}
	var ids []uint32
	for _, other := range d.ids {
		if p := d.files[other].GetPipe(); p != nil && p.GetPipeId() == e.GetPipeId() {
			d.done[other] = true
			ids = append(ids, other)
		}
	}
	// The first of each end is made with the pipe; what was opened by name (from /proc or /dev) is opened so again.
	var ends [2]uint32
	var primary [2]bool
	for _, o := range ids {
		end := d.files[o].GetPipe().GetFlags() & syscall.O_ACCMODE
		if d.files[o].GetPipe().GetFlags()&oLargefile == 0 && end <= 1 && !primary[end] {
			ends[end], primary[end] = o, true
		}
	}
	made := d.pipeFlags(ends, primary)
	var temp [2]*handle
	temp[0], temp[1] = d.pair(id, "pipe", recipe.Pipe2, 0, recipe.Arg{}, recipe.Int(made))
	d.fillPipe(id, temp[1].arg(), e.GetPipeId())
	source := temp[0].n
	for end, h := range temp {
		if o := ends[end]; primary[end] {
			p := d.files[o].GetPipe()
			d.place(h, o, made)
			d.params(o, h.arg(), p.GetFlags(), made, p.GetFown())
			source = d.fd(o)
		}
	}
	for _, o := range ids {
		if primary[0] && ends[0] == o || primary[1] && ends[1] == o {
			continue
		}
		p := d.files[o].GetPipe()
		h := d.reopen(o, source, p.GetFlags())
		d.place(h, o, d.cloexec(o))
		d.owner(o, h.arg(), p.GetFown())
		source = d.fd(o)
	}
	for end, h := range temp {
		if !primary[end] {
			d.drop(h)
		}
	}
}

// pipeFlags are the flags that both ends of a pipe have.
func (d *descriptors) pipeFlags(ends [2]uint32, primary [2]bool) uint32 {
	flags := uint32(syscall.O_NONBLOCK | syscall.O_CLOEXEC)
	for i, id := range ends {
		if primary[i] {
			flags &= d.files[id].GetPipe().GetFlags()&syscall.O_NONBLOCK | d.cloexec(id)
		}
	}
	if !primary[0] && !primary[1] {
		return syscall.O_CLOEXEC
	}
	return flags
}

// fillPipe gives a pipe its size and content. w can be written to.
func (d *descriptors) fillPipe(id uint32, w recipe.Arg, pipe uint32) {
	p := d.pipes[pipe]
	if p.Size != 0 && p.Size != pipeSize {
		d.call(id, "set the size of the pipe", recipe.Fcntl, w, recipe.Int(fSetPipeSize), recipe.Int(p.Size)).Want(int(p.Size))
	}
	if n := len(p.Content); n > 0 {
		d.call(id, "fill the pipe", recipe.Write, w, recipe.At(d.r.Data().Bytes(p.Content)), recipe.Int(n)).Want(n)
	}
}

// givenPipe makes descriptors of a pipe that the clone was given. Only one open file can be the one that was given; others
// are opened.
func (d *descriptors) givenPipe(id uint32, e *pipe.PipeEntry, n int) {
	end := uint32(syscall.O_WRONLY)
	if d.c.config.Stdio[0] == fmt.Sprintf("pipe:[%d]", e.GetPipeId()) {
		end = syscall.O_RDONLY
	}
	first := slices.IndexFunc(d.ids, func(o uint32) bool {
		p := d.files[o].GetPipe()
		return p != nil && p.GetPipeId() == e.GetPipeId() && p.GetFlags()&syscall.O_ACCMODE == end
	})
	if first >= 0 && d.ids[first] == id {
		d.placeCopy(recipe.Int(n), id)
		// What flags it comes with is not known here.
		d.call(id, "set flags", recipe.Fcntl, recipe.Int(d.fd(id)), recipe.Int(fSetfl), recipe.Int(e.GetFlags()&settable))
		d.owner(id, recipe.Int(d.fd(id)), e.GetFown())
		return
	}
	h := d.reopen(id, n, e.GetFlags())
	d.place(h, id, d.cloexec(id))
	d.owner(id, h.arg(), e.GetFown())
}

// fifo opens a fifo by name. While it is opened it is open at both ends, so that nobody waits for the other one.
func (d *descriptors) fifo(id uint32) {
	entry, err := d.c.images.Fifo(id)
	named := id
	if entry != nil && entry.RegfId != nil {
		named = entry.GetRegfId()
	}
	f, ferr := d.c.images.File(named)
	e := f.GetReg()
	if err != nil || ferr != nil || entry == nil || e == nil {
		d.refuse(id, "a fifo that the images say too little of")
		return
	}
	if d.remaps[named] != nil {
		d.refuse(id, "the fifo %s, whose name is gone", e.GetName())
		return
	}
	name := d.string(e.GetName())
	both := d.aside(d.make(id, "open both ends of "+e.GetName(), recipe.Openat, recipe.Int(atCwd), name,
		recipe.Int(syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC)))
	h := d.make(id, "open "+e.GetName(), recipe.Openat, recipe.Int(atCwd), name, recipe.Int(openFlags(e.GetFlags())|d.cloexec(id)))
	if !d.fifoFilled(id, entry.GetPipeId()) {
		d.fillPipe(id, both.arg(), entry.GetPipeId())
	}
	d.drop(both)
	d.place(h, id, d.cloexec(id))
	d.owner(id, h.arg(), e.GetFown())
}

// fifoFilled says whether another descriptor of the same fifo, made before, has filled it.
func (d *descriptors) fifoFilled(id, pipe uint32) bool {
	for _, o := range d.ids {
		if o == id {
			break
		}
		if f, err := d.c.images.Fifo(o); err == nil && f != nil && f.GetPipeId() == pipe {
			return true
		}
	}
	return false
}

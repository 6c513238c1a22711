package template

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// call adds a call that is made for a descriptor of an open file.
func (d *descriptors) call(id uint32, what string, call recipe.Call, args ...recipe.Arg) *recipe.Op {
	return d.r.Call(fmt.Sprintf("%s: %s", d.name(id), what), call, args...)
}

// cloexec is O_CLOEXEC if the first descriptor of an open file has it.
func (d *descriptors) cloexec(id uint32) uint32 { return d.cloexecOf(id, 0) }

func (d *descriptors) cloexecOf(id uint32, i int) uint32 {
	if es := d.byID[id]; i < len(es) && es[i].GetFlags()&fdCloexec != 0 {
		return syscall.O_CLOEXEC
	}
	return 0
}

// make adds a call that returns a new descriptor.
func (d *descriptors) make(id uint32, what string, call recipe.Call, args ...recipe.Arg) *handle {
	op := d.call(id, what, call, args...)
	h := &handle{}
	if d.table.lowest(h); h.n < 0 {
		h.at = d.r.Data().Space(8)
		op.Into(h.at)
	} else {
		op.Want(h.n)
	}
	return h
}

// pair adds a call that makes two new descriptors and stores their numbers where its argument at index array says.
func (d *descriptors) pair(id uint32, what string, call recipe.Call, array int, args ...recipe.Arg) (a, b *handle) {
	at := d.r.Data().Space(16)
	args[array] = recipe.At(at)
	d.call(id, what, call, args...)
	// The words that are loaded have the other number, or zeros, in their upper halves, which the kernel cuts off.
	a, b = &handle{at: at}, &handle{at: at + 4}
	d.table.lowest(a)
	d.table.lowest(b)
	return a, b
}

// aside moves a descriptor out of the way of those that are to come.
func (d *descriptors) aside(h *handle) *handle {
	if h.n < 0 {
		return h
	}
	at := d.r.Data().Space(8)
	d.r.Call(fmt.Sprintf("move %d aside", h.n), recipe.Fcntl, recipe.Int(h.n), recipe.Int(fDupfdCloexec), recipe.Int(d.c.high)).Into(at)
	d.r.Call(fmt.Sprintf("close %d", h.n), recipe.Close, recipe.Int(h.n)).Want(0)
	d.table.free(h.n)
	h.n, h.at = -1, at
	return h
}

// drop closes a descriptor that was only needed for a while.
func (d *descriptors) drop(h *handle) {
	d.r.Call("close a helper", recipe.Close, h.arg()).Want(0)
	d.table.free(h.n)
}

// place gives a new descriptor, made with O_CLOEXEC or without, the numbers that its open file has.
func (d *descriptors) place(h *handle, id uint32, made uint32) {
	first := d.fd(id)
	if h.n != first {
		d.copyTo(h.arg(), id, 0)
		d.drop(h)
		h.n = first
	} else if want := d.cloexec(id); want != made&syscall.O_CLOEXEC {
		d.call(id, "close on exec", recipe.Fcntl, h.arg(), recipe.Int(fSetfd), recipe.Int(want/syscall.O_CLOEXEC))
	}
	d.table.settle(first)
	for i := range d.byID[id][1:] {
		d.copyTo(recipe.Int(first), id, i+1)
	}
}

// placeCopy gives a copy of a descriptor, which stays, the numbers that an open file has.
func (d *descriptors) placeCopy(of recipe.Arg, id uint32) {
	for i := range d.byID[id] {
		d.copyTo(of, id, i)
	}
}

// copyTo gives a copy of a descriptor the i-th number of an open file.
func (d *descriptors) copyTo(of recipe.Arg, id uint32, i int) {
	n := int(d.byID[id][i].GetFd())
	if o := d.table.occupant(n, nil); o != nil {
		d.aside(o)
	}
	d.r.Call(fmt.Sprintf("descriptor %d: copy", n), recipe.Dup3, of, recipe.Int(n), recipe.Int(d.cloexecOf(id, i))).Want(n)
	d.table.settle(n)
}

// reopen opens what a descriptor stands for once more. The descriptor's number must be known.
func (d *descriptors) reopen(id uint32, n int, flags uint32) *handle {
	if n < 0 {
		d.refuse(id, "no number below %d is free to make it with", d.c.high)
	}
	return d.make(id, "open again", recipe.Openat, recipe.Int(atCwd), d.string(fmt.Sprintf("/proc/self/fd/%d", n)),
		recipe.Int(openFlags(flags)|d.cloexec(id)))
}

// openFlags are flags of an open file as far as they may be given when it is opened again.
func openFlags(flags uint32) uint32 {
	if flags&oTmpfile != 0 {
		flags &^= oTmpfile | syscall.O_DIRECTORY
	}
	return flags &^ (syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC | syscall.O_CLOEXEC)
}

// check makes the recipe fail if the numbers were not as predicted: the lowest free one comes last.
func (d *descriptors) check() {
	if len(d.ids) == 0 {
		return
	}
	h := &handle{}
	if d.table.lowest(h); h.n < 0 {
		return
	}
	d.r.Call("find the lowest free descriptor", recipe.Fcntl, recipe.Int(d.fd(d.ids[0])), recipe.Int(fDupfdCloexec), recipe.Int(0)).Want(h.n)
	d.drop(h)
}

// bytes puts b into the data, once for all equal ones. The kernel must not write to it.
func (d *descriptors) bytes(b []byte) recipe.Arg {
	a, ok := d.words[string(b)]
	if !ok {
		a = d.r.Data().Bytes(b)
		d.words[string(b)] = a
	}
	return recipe.At(a)
}

func (d *descriptors) string(s string) recipe.Arg { return d.bytes(append([]byte(s), 0)) }

func (d *descriptors) int32(v uint32) recipe.Arg {
	return d.bytes(binary.LittleEndian.AppendUint32(nil, v))
}

func (d *descriptors) int64s(vs ...uint64) recipe.Arg {
	var b []byte
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return d.bytes(b)
}

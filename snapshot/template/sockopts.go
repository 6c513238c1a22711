package template

import (
	"encoding/binary"
	"math"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// Levels and names of socket options.
const (
	solIP, solSocket, solTCP, solIPv6 = 0, 1, 6, 41

	soReuseaddr, soDontroute, soBroadcast, soSndbuf, soKeepalive = 2, 5, 6, 7, 9

	soOobinline, soNoCheck, soPriority, soLinger, soReuseport, soPasscred = 10, 11, 12, 13, 15, 16

	soRcvlowat, soRcvtimeo, soSndtimeo, soBindtodevice, soAttachFilter = 18, 20, 21, 25, 26

	soSndbufforce, soRcvbufforce, soPasssec, soMark, soBufLock = 32, 33, 34, 36, 72
)

// option sets an option that is a number.
func (d *descriptors) option(id uint32, h recipe.Arg, what string, level, name int, v uint32) {
	d.call(id, what, recipe.Setsockopt, h, recipe.Int(level), recipe.Int(name), d.int32(v), recipe.Int(4))
}

// socketOptions sets the options that all families of sockets have. Those that are as in every new socket are left alone.
// The sizes of buffers never are: what they are by default depends on the host.
func (d *descriptors) socketOptions(id uint32, h recipe.Arg, o *sk_opts.SkOptsEntry) {
	set := func(what string, name int, v uint32) { d.option(id, h, what, solSocket, name, v) }
	// The kernel doubles what it is told.
	set("SO_SNDBUFFORCE", soSndbufforce, o.GetSoSndbuf()/2)
	set("SO_RCVBUFFORCE", soRcvbufforce, o.GetSoRcvbuf()/2)
	if o.SoBufLock != nil {
		set("SO_BUF_LOCK", soBufLock, o.GetSoBufLock())
	}
	for _, n := range []struct {
		what  string
		name  int
		v     *uint32
		usual uint32
	}{
		{"SO_PRIORITY", soPriority, o.SoPriority, 0}, {"SO_RCVLOWAT", soRcvlowat, o.SoRcvlowat, 1}, {"SO_MARK", soMark, o.SoMark, 0},
	} {
		if n.v != nil && *n.v != n.usual {
			set(n.what, n.name, *n.v)
		}
	}
	for _, b := range []struct {
		what string
		name int
		on   bool
	}{
		{"SO_PASSCRED", soPasscred, o.GetSoPasscred()}, {"SO_PASSSEC", soPasssec, o.GetSoPasssec()},
		{"SO_DONTROUTE", soDontroute, o.GetSoDontroute()}, {"SO_NO_CHECK", soNoCheck, o.GetSoNoCheck()},
		{"SO_BROADCAST", soBroadcast, o.GetSoBroadcast()}, {"SO_OOBINLINE", soOobinline, o.GetSoOobinline() != 0},
		{"SO_KEEPALIVE", soKeepalive, o.GetSoKeepalive()},
	} {
		if b.on {
			set(b.what, b.name, 1)
		}
	}
	if o.SoLinger != nil {
		linger := binary.LittleEndian.AppendUint32([]byte{1, 0, 0, 0}, o.GetSoLinger())
		d.call(id, "SO_LINGER", recipe.Setsockopt, h, recipe.Int(solSocket), recipe.Int(soLinger), d.bytes(linger), recipe.Int(8))
	}
	d.timeout(id, h, "SO_SNDTIMEO", soSndtimeo, o.GetSoSndTmoSec(), o.GetSoSndTmoUsec())
	d.timeout(id, h, "SO_RCVTIMEO", soRcvtimeo, o.GetSoRcvTmoSec(), o.GetSoRcvTmoUsec())
	if dev := o.GetSoBoundDev(); dev != "" {
		d.call(id, "bind to device "+dev, recipe.Setsockopt, h, recipe.Int(solSocket), recipe.Int(soBindtodevice), d.string(dev), recipe.Int(len(dev)))
	}
	d.filter(id, h, o.GetSoFilter())
}

func (d *descriptors) timeout(id uint32, h recipe.Arg, what string, name int, sec, usec uint64) {
	if sec != 0 || usec != 0 {
		d.call(id, what, recipe.Setsockopt, h, recipe.Int(solSocket), recipe.Int(name), d.int64s(sec, usec), recipe.Int(16))
	}
}

// filter attaches a BPF program, of which the images have an instruction a word.
func (d *descriptors) filter(id uint32, h recipe.Arg, program []uint64) {
	if len(program) == 0 {
		return
	}
	if len(program) > math.MaxUint16 {
		d.refuse(id, "a socket filter of %d instructions", len(program))
		return
	}
	var b []byte
	for _, w := range program {
		b = binary.LittleEndian.AppendUint16(b, uint16(w>>48))
		b = append(b, byte(w>>40), byte(w>>32))
		b = binary.LittleEndian.AppendUint32(b, uint32(w))
	}
	prog := struct {
		Len    uint16
		_      [6]byte
		Filter uint64
	}{Len: uint16(len(program)), Filter: uint64(d.r.Data().Bytes(b))}
	d.call(id, "attach the filter", recipe.Setsockopt, h, recipe.Int(solSocket), recipe.Int(soAttachFilter),
		recipe.At(d.r.Data().Put(prog)), recipe.Int(16))
}

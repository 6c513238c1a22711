package template

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// unixSocket is a unix socket that has been made and lacks the rest: its connection, what waits to be read, options.
type unixSocket struct {
	id     uint32
	e      *sk_unix.UnixSkEntry
	sender *handle // writes what waits to be read and is closed then; nil if another socket of the process does
}

// unixSocket makes a socket, or a pair of them.
func (d *descriptors) unixSocket(id uint32, e *sk_unix.UnixSkEntry) {
	peerID, peer := d.unixByInode(e.GetPeer())
	if why := d.cannotUnix(id, e, peer); why != "" {
		d.refuse(id, "%s", why)
		return
	}
	dgram := e.GetType() == syscall.SOCK_DGRAM
	made := d.flagsOf(id, e.GetFlags())
	s := &unixSocket{id: id, e: e}
	switch {
	case mutual(e, peer):
		d.done[peerID] = true
		made &= d.flagsOf(peerID, peer.GetFlags())
		a, b := d.unixPair(id, e, made)
		d.place(a, id, made)
		d.place(b, peerID, made)
		d.finishLater(s, made)
		d.finishLater(&unixSocket{id: peerID, e: peer}, made)
	case !dgram && e.GetState() == tcpEstablished && peer == nil, dgram && len(d.queues[id]) > 0 && d.queuer(e) == nil:
		// Its other end is closed, or what it was sent came from sockets that are gone.
		var a *handle
		a, s.sender = d.unixPair(id, e, made)
		d.aside(s.sender)
		d.place(a, id, made)
		if dgram {
			d.call(id, "disconnect", recipe.Connect, a.arg(), d.bytes([]byte{0, 0}), recipe.Int(2))
		}
		d.finishLater(s, made)
	default:
		h := d.make(id, "unix socket", recipe.Socket, recipe.Int(syscall.AF_UNIX), recipe.Int(e.GetType()|made), recipe.Int(0))
		d.place(h, id, made)
		d.finishLater(s, made)
	}
}

// mutual says whether two sockets are each other's peers, and not one socket.
func mutual(e, peer *sk_unix.UnixSkEntry) bool {
	return peer != nil && peer.GetPeer() == e.GetIno() && peer.GetIno() != e.GetIno()
}

func (d *descriptors) unixPair(id uint32, e *sk_unix.UnixSkEntry, made uint32) (a, b *handle) {
	return d.pair(id, "pair of unix sockets", recipe.Socketpair, 3, recipe.Int(syscall.AF_UNIX), recipe.Int(e.GetType()|made), recipe.Int(0), recipe.Arg{})
}

// finishLater binds a socket, and lets it listen, and notes what is to be done when all sockets are there.
func (d *descriptors) finishLater(s *unixSocket, made uint32) {
	fd := recipe.Int(d.fd(s.id))
	d.params(s.id, fd, s.e.GetFlags(), made, s.e.GetFown())
	d.bindUnix(s.id, fd, s.e)
	if s.e.GetState() == tcpListen {
		d.call(s.id, "listen at "+unixName(s.e), recipe.Listen, fd, recipe.Int(s.e.GetBacklog()))
	}
	d.unix = append(d.unix, s)
}

// cannotUnix says why there is no recipe for a socket; nothing if there is one.
func (d *descriptors) cannotUnix(id uint32, e, peer *sk_unix.UnixSkEntry) string {
	stream := e.GetType() == syscall.SOCK_STREAM || e.GetType() == syscall.SOCK_SEQPACKET
	rights := false
	for _, p := range d.queues[id] {
		rights = rights || p.Rights
	}
	switch {
	case e.GetUflags() != 0, e.GetPeer() != 0 && peer == nil:
		return "a unix socket connected to one that is not this process's"
	case !stream && e.GetType() != syscall.SOCK_DGRAM:
		return fmt.Sprintf("a unix socket of type %d", e.GetType())
	case e.NsId != nil && e.GetNsId() != d.t.IDs.GetNetNsId():
		return "a unix socket in another network namespace"
	case rights:
		return "a unix socket with a message that has descriptors in it"
	case e.GetDeleted():
		return fmt.Sprintf("the unix socket %s, whose name is gone or another's", unixName(e))
	case e.GetPeer() != 0 && !mutual(e, peer) && len(peer.GetName()) == 0:
		return "a unix socket connected to one without a name"
	case stream && e.GetState() == tcpEstablished && peer == nil && shutdownOf(e.GetShutdown()) != shutdownBoth:
		return "a unix socket whose connection is half closed"
	}
	return ""
}

func (d *descriptors) unixByInode(inode uint32) (uint32, *sk_unix.UnixSkEntry) {
	if inode != 0 {
		for _, id := range d.ids {
			if u := d.files[id].GetUsk(); u != nil && u.GetIno() == inode {
				return id, u
			}
		}
	}
	return 0, nil
}

// queuer returns a socket of the process that is connected to e; nil if there is none.
func (d *descriptors) queuer(e *sk_unix.UnixSkEntry) *uint32 {
	for _, id := range d.ids {
		if u := d.files[id].GetUsk(); u != nil && u.GetPeer() == e.GetIno() {
			return &id
		}
	}
	return nil
}

// unixName is how a socket is called where people read it.
func unixName(e *sk_unix.UnixSkEntry) string {
	name := strings.TrimRight(string(e.GetName()), "\x00")
	if strings.HasPrefix(name, "\x00") {
		return "@" + name[1:]
	}
	return name
}

// bindUnix gives a socket its name. A connected one has that of the socket that took its connection, and cannot have it
// again.
func (d *descriptors) bindUnix(id uint32, fd recipe.Arg, e *sk_unix.UnixSkEntry) {
	if len(e.GetName()) == 0 || e.GetType() != syscall.SOCK_DGRAM && e.GetState() == tcpEstablished {
		return
	}
	addr := unixAddr(e)
	what := "bind to " + unixName(e)
	if e.GetName()[0] == 0 {
		d.call(id, what, recipe.Bind, fd, d.bytes(addr), recipe.Int(len(addr)))
		return
	}
	path := d.string(strings.TrimRight(string(e.GetName()), "\x00"))
	d.in(id, e, func() {
		d.call(id, "remove "+unixName(e), recipe.Unlinkat, recipe.Int(atCwd), path, recipe.Int(0)).Try()
		d.call(id, what, recipe.Bind, fd, d.bytes(addr), recipe.Int(len(addr)))
		if p := e.GetFilePerms(); p != nil {
			d.call(id, "set the owner", recipe.Fchownat, recipe.Int(atCwd), path, recipe.Int(p.GetUid()), recipe.Int(p.GetGid()), recipe.Int(0))
			d.call(id, "set permissions", recipe.Fchmodat, recipe.Int(atCwd), path, recipe.Int(p.GetMode()&0o7777))
		}
	})
}

// in does something in the directory that the name of a socket counts from.
func (d *descriptors) in(id uint32, e *sk_unix.UnixSkEntry, do func()) {
	relative := len(e.GetName()) > 0 && e.GetName()[0] != 0 && e.GetName()[0] != '/'
	if relative && e.GetNameDir() == "" {
		d.refuse(id, "the unix socket %s, whose directory is not known", unixName(e))
	}
	if relative {
		d.call(id, "go to "+e.GetNameDir(), recipe.Chdir, d.string(e.GetNameDir()))
	}
	do()
	if relative {
		d.call(id, "go back", recipe.Chdir, d.string("/"))
	}
}

// unixAddr is a socket's name as the kernel takes it.
func unixAddr(e *sk_unix.UnixSkEntry) []byte {
	return append(binary.LittleEndian.AppendUint16(nil, syscall.AF_UNIX), e.GetName()...)
}

// finishUnix connects sockets by name, sends them what waited, and sets the options, some of which would be in the way of
// that.
func (d *descriptors) finishUnix() {
	for _, s := range d.unix {
		_, peer := d.unixByInode(s.e.GetPeer())
		if peer == nil || mutual(s.e, peer) {
			continue
		}
		d.in(s.id, peer, func() {
			to := unixAddr(peer)
			d.call(s.id, "connect to "+unixName(peer), recipe.Connect, recipe.Int(d.fd(s.id)), d.bytes(to), recipe.Int(len(to)))
		})
	}
	for _, s := range d.unix {
		if packets := d.queues[s.id]; len(packets) > 0 {
			d.queue(s, packets)
		}
		if s.sender != nil {
			d.drop(s.sender)
		}
	}
	for _, s := range d.unix {
		fd := recipe.Int(d.fd(s.id))
		d.unixOptions(s, fd)
	}
}

// unixOptions sets a socket's options, and in the end what it has shut down.
func (d *descriptors) unixOptions(s *unixSocket, fd recipe.Arg) {
	o := s.e.GetOpts()
	if o.GetReuseaddr() {
		d.option(s.id, fd, "SO_REUSEADDR", solSocket, soReuseaddr, 1)
	}
	d.socketOptions(s.id, fd, o)
	if how := shutdownOf(s.e.GetShutdown()); how >= 0 {
		d.call(s.id, "shut down", recipe.Shutdown, fd, recipe.Int(how))
	}
}

// queue sends a socket what it had not read.
func (d *descriptors) queue(s *unixSocket, packets []criu.Packet) {
	var from recipe.Arg
	switch q := d.queuer(s.e); {
	case s.sender != nil:
		from = s.sender.arg()
	case q != nil:
		from = recipe.Int(d.fd(*q))
	default:
		d.refuse(s.id, "a unix socket with messages from nowhere")
		return
	}
	d.option(s.id, from, "make room", solSocket, soSndbufforce, math.MaxInt32/2)
	const dontWait, noSignal = 0x40, 0x4000
	for _, p := range packets {
		d.call(s.id, "send what waits", recipe.Sendto, from, recipe.At(d.r.Data().Bytes(p.Content)), recipe.Int(len(p.Content)),
			recipe.Int(dontWait|noSignal), recipe.Int(0), recipe.Int(0)).Want(len(p.Content))
	}
}

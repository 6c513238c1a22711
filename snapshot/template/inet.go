package template

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

const (
	tcpEstablished, tcpClose, tcpListen = 1, 7, 10

	ipTOS, ipTTL, ipPktinfo, ipFreebind             = 1, 2, 8, 15
	ipv6V6only, ipv6RecvPktinfo, ipv6Freebind       = 26, 49, 78
	tcpNodelay, tcpCork                             = 1, 3
	tcpKeepidle, tcpKeepintvl, tcpKeepcnt           = 4, 5, 6
	usualTTL                                        = 64
	usualKeepcnt, usualKeepidle, usualKeepintvl     = 9, 7200, 75
	shutdownRead, shutdownWrite, shutdownBoth   int = 0, 1, 2
)

// inetSocket is a socket that holds a port.
type inetSocket struct {
	id uint32
	e  *sk_inet.InetSkEntry
}

// inet makes a TCP or UDP socket.
func (d *descriptors) inet(id uint32, e *sk_inet.InetSkEntry) {
	if why := d.cannotSocket(e); why != "" {
		d.refuse(id, "%s", why)
		return
	}
	made := d.flagsOf(id, e.GetFlags())
	h := d.make(id, "socket", recipe.Socket, recipe.Int(e.GetFamily()), recipe.Int(e.GetType()|made), recipe.Int(e.GetProto()))
	d.place(h, id, made)
	fd := h.arg()
	if e.GetV6Only() {
		d.option(id, fd, "IPV6_V6ONLY", solIPv6, ipv6V6only, 1)
	}
	d.reuse(id, fd, e)
	switch {
	case e.GetProto() == syscall.IPPROTO_TCP && e.GetDstPort() != 0:
		// The connection is over. The call says that there is none, but from then on reads find an end and writes fail.
		d.call(id, "close the connection", recipe.Shutdown, fd, recipe.Int(shutdownBoth)).Try()
	case e.GetSrcPort() != 0:
		d.bindInet(id, fd, e)
		fallthrough
	default:
		if e.GetState() == tcpListen {
			d.call(id, fmt.Sprintf("listen at port %d", e.GetSrcPort()), recipe.Listen, fd, recipe.Int(e.GetBacklog()))
		}
		if e.GetDstPort() != 0 {
			to := sockaddr(e.GetFamily(), e.GetDstPort(), e.GetDstAddr())
			d.call(id, "connect", recipe.Connect, fd, d.bytes(to), recipe.Int(len(to)))
		}
	}
	d.params(id, fd, e.GetFlags(), made, e.GetFown())
	d.inetOptions(id, fd, e)
	d.socketOptions(id, fd, e.GetOpts())
	d.tcpOptions(id, fd, e)
	if how := shutdownOf(e.GetShutdown()); e.Shutdown != nil && how >= 0 {
		// A socket that is not connected remembers it, too, and says that it is not.
		d.call(id, "shut down", recipe.Shutdown, fd, recipe.Int(how)).Try()
	}
}

// cannotSocket says why there is no recipe for a socket; nothing if there is one.
func (d *descriptors) cannotSocket(e *sk_inet.InetSkEntry) string {
	words := 1
	if e.GetFamily() == syscall.AF_INET6 {
		words = 4
	}
	tcp := e.GetProto() == syscall.IPPROTO_TCP && e.GetType() == syscall.SOCK_STREAM
	udp := e.GetProto() == syscall.IPPROTO_UDP && e.GetType() == syscall.SOCK_DGRAM
	switch {
	case e.GetFamily() != syscall.AF_INET && e.GetFamily() != syscall.AF_INET6, !tcp && !udp:
		return fmt.Sprintf("a socket of family %d, type %d, protocol %d", e.GetFamily(), e.GetType(), e.GetProto())
	case len(e.GetSrcAddr()) < words || len(e.GetDstAddr()) < words:
		return "a socket whose address is not in the images"
	case e.GetIfname() != "":
		return "a socket bound to an address that holds on one interface only, " + e.GetIfname()
	case e.NsId != nil && e.GetNsId() != d.t.IDs.GetNetNsId():
		return "a socket in another network namespace"
	case tcp && e.GetDstPort() != 0:
		if n, err := d.c.images.ClosedTCP(); n == 0 || err != nil {
			return fmt.Sprintf("a TCP connection to port %d", e.GetDstPort())
		}
	case tcp && e.GetState() != tcpListen && e.GetState() != tcpClose:
		return fmt.Sprintf("a TCP socket in state %d", e.GetState())
	}
	return ""
}

// reuse sets whether addresses may be shared. If there are several sockets at a port they may at first, and only when all
// are there each gets what it had.
func (d *descriptors) reuse(id uint32, fd recipe.Arg, e *sk_inet.InetSkEntry) {
	addr, port := e.GetOpts().GetReuseaddr(), e.GetOpts().GetSoReuseport()
	if p := e.GetSrcPort(); p != 0 && d.sharers(p) > 1 {
		if d.ports == nil {
			d.ports = make(map[uint32][]*inetSocket)
		}
		d.ports[p] = append(d.ports[p], &inetSocket{id, e})
		addr, port = true, true
	}
	if addr {
		d.option(id, fd, "SO_REUSEADDR", solSocket, soReuseaddr, 1)
	}
	if port {
		d.option(id, fd, "SO_REUSEPORT", solSocket, soReuseport, 1)
	}
}

// sharers counts the sockets that are bound to a port.
func (d *descriptors) sharers(port uint32) int {
	n := 0
	for _, f := range d.files {
		if f.GetIsk().GetSrcPort() == port {
			n++
		}
	}
	return n
}

// releasePorts takes back what reuse has set too much.
func (d *descriptors) releasePorts() {
	for _, id := range d.ids {
		for _, s := range d.ports[d.files[id].GetIsk().GetSrcPort()] {
			if s.id != id {
				continue
			}
			if !s.e.GetOpts().GetReuseaddr() {
				d.option(id, recipe.Int(d.fd(id)), "SO_REUSEADDR", solSocket, soReuseaddr, 0)
			}
			if !s.e.GetOpts().GetSoReuseport() {
				d.option(id, recipe.Int(d.fd(id)), "SO_REUSEPORT", solSocket, soReuseport, 0)
			}
		}
	}
}

// bindInet binds a socket. An IPv6 address may be so new that the kernel is still asking whether it is free.
func (d *descriptors) bindInet(id uint32, fd recipe.Arg, e *sk_inet.InetSkEntry) {
	early := e.GetFamily() == syscall.AF_INET6 && !e.GetIpOpts().GetFreebind() && !everywhere(e.GetSrcAddr())
	if early || e.GetIpOpts().GetFreebind() {
		d.option(id, fd, "IP_FREEBIND", solIP, ipFreebind, 1)
	}
	from := sockaddr(e.GetFamily(), e.GetSrcPort(), e.GetSrcAddr())
	d.call(id, fmt.Sprintf("bind to port %d", e.GetSrcPort()), recipe.Bind, fd, d.bytes(from), recipe.Int(len(from)))
	if early {
		d.option(id, fd, "IP_FREEBIND", solIP, ipFreebind, 0)
	}
}

// everywhere says whether an IPv6 address is there in every network namespace: :: or ::1.
func everywhere(a []uint32) bool {
	return a[0] == 0 && a[1] == 0 && a[2] == 0 && (a[3] == 0 || a[3] == 1<<24)
}

// sockaddr makes an address as the kernel takes it.
func sockaddr(family, port uint32, words []uint32) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(family))
	b = binary.BigEndian.AppendUint16(b, uint16(port))
	if family == syscall.AF_INET {
		b = binary.LittleEndian.AppendUint32(b, words[0])
		return append(b, make([]byte, 8)...)
	}
	b = append(b, 0, 0, 0, 0) // flow
	for _, w := range words[:4] {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return append(b, 0, 0, 0, 0) // scope
}

// inetOptions sets options of IP.
func (d *descriptors) inetOptions(id uint32, fd recipe.Arg, e *sk_inet.InetSkEntry) {
	o, err := criu.InetOptionsOf(e)
	if err != nil {
		d.refuse(id, "options of a socket: %v", err)
		return
	}
	freebind, pktinfo := e.GetIpOpts().GetFreebind(), e.GetIpOpts().GetPktinfo()
	if e.GetFamily() == syscall.AF_INET6 {
		if freebind {
			d.option(id, fd, "IPV6_FREEBIND", solIPv6, ipv6Freebind, 1)
		}
		if pktinfo {
			d.option(id, fd, "IPV6_RECVPKTINFO", solIPv6, ipv6RecvPktinfo, 1)
		}
		return
	}
	if freebind {
		d.option(id, fd, "IP_FREEBIND", solIP, ipFreebind, 1)
	}
	if pktinfo {
		d.option(id, fd, "IP_PKTINFO", solIP, ipPktinfo, 1)
	}
	if o.TOS != nil && *o.TOS != 0 {
		d.option(id, fd, "IP_TOS", solIP, ipTOS, *o.TOS)
	}
	if o.TTL != nil && *o.TTL != usualTTL {
		d.option(id, fd, "IP_TTL", solIP, ipTTL, *o.TTL)
	}
}

// tcpOptions sets options of TCP.
func (d *descriptors) tcpOptions(id uint32, fd recipe.Arg, e *sk_inet.InetSkEntry) {
	o, err := criu.InetOptionsOf(e)
	if err != nil || e.GetProto() != syscall.IPPROTO_TCP {
		return // said already
	}
	for _, n := range []struct {
		what  string
		name  int
		v     *uint32
		usual uint32
	}{
		{"TCP_NODELAY", tcpNodelay, o.NoDelay, 0}, {"TCP_CORK", tcpCork, o.Cork, 0}, {"TCP_KEEPCNT", tcpKeepcnt, o.KeepCnt, usualKeepcnt},
		{"TCP_KEEPIDLE", tcpKeepidle, o.KeepIdle, usualKeepidle}, {"TCP_KEEPINTVL", tcpKeepintvl, o.KeepIntvl, usualKeepintvl},
	} {
		if n.v != nil && *n.v != n.usual {
			d.option(id, fd, n.what, solTCP, n.name, *n.v)
		}
	}
}

// shutdownOf is what shutdown is called with; below 0 if it is not called.
func shutdownOf(s sk_opts.SkShutdown) int {
	switch s {
	case sk_opts.SkShutdown_READ:
		return shutdownRead
	case sk_opts.SkShutdown_WRITE:
		return shutdownWrite
	case sk_opts.SkShutdown_BOTH:
		return shutdownBoth
	}
	return -1
}

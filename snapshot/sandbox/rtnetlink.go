package sandbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// route is a socket by which the kernel is told of links, addresses and routes of the network namespace in which it was
// opened, wherever who uses it is. Messages that do not depend on each other's answers go to the kernel in one system call.
// One goroutine may use it at a time.
type route struct{ fd int }

// openRoute opens the socket in the calling thread's network namespace.
func openRoute() (*route, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &route{fd}, nil
}

func (r *route) Close() error {
	if r == nil || r.fd < 0 {
		return nil
	}
	fd := r.fd
	r.fd = -1
	return syscall.Close(fd)
}

// message is a request in the making, and what to call it if it fails.
type message struct {
	what string
	b    []byte
}

// request begins a message with its header of fixed size.
func request(what string, kind, flags uint16, header []byte) *message {
	b := make([]byte, syscall.NLMSG_HDRLEN, 256)
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags|syscall.NLM_F_REQUEST)
	return &message{what, append(b, header...)}
}

// attr adds an attribute. Everything in a message begins at a multiple of four bytes.
func (m *message) attr(kind uint16, value []byte) *message {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(4+len(value)))
	m.b = binary.NativeEndian.AppendUint16(m.b, kind)
	m.b = append(m.b, value...)
	m.b = append(m.b, make([]byte, -len(value)&3)...)
	return m
}

func (m *message) number(kind uint16, n int) *message {
	return m.attr(kind, binary.NativeEndian.AppendUint32(nil, uint32(n)))
}

func (m *message) text(kind uint16, s string) *message { return m.attr(kind, append([]byte(s), 0)) }

// nest adds an attribute that consists of others, after a header of its own where it has one.
func (m *message) nest(kind uint16, header []byte, fill func()) *message {
	at := len(m.b)
	m.b = append(m.b, 0, 0, 0, 0)
	m.b = append(m.b, header...)
	fill()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
	binary.NativeEndian.PutUint16(m.b[at+2:], kind)
	return m
}

// do sends the messages, all of which the kernel tries, and returns the first one's error that failed.
func (r *route) do(messages ...*message) error {
	var b []byte
	for i, m := range messages {
		binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
		m.b[6] |= syscall.NLM_F_ACK
		binary.NativeEndian.PutUint32(m.b[8:], uint32(i))
		b = append(b, m.b...)
	}
	var failed error
	answered := 0
	err := r.exchange(b, func(a syscall.NetlinkMessage) bool {
		if a.Header.Type == syscall.NLMSG_ERROR {
			answered++
			if err := errorOf(a); err != nil && failed == nil && int(a.Header.Seq) < len(messages) {
				failed = fmt.Errorf("%s: %w", messages[a.Header.Seq].what, err)
			}
		}
		return answered == len(messages)
	})
	return errors.Join(failed, err)
}

// ask sends one message and hands each part of the answer to f.
func (r *route) ask(m *message, f func(syscall.NetlinkMessage) error) error {
	binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
	dump := binary.NativeEndian.Uint16(m.b[6:])&syscall.NLM_F_DUMP == syscall.NLM_F_DUMP
	var failed error
	err := r.exchange(m.b, func(a syscall.NetlinkMessage) bool {
		switch {
		case a.Header.Type == syscall.NLMSG_DONE:
			return true
		case a.Header.Type == syscall.NLMSG_ERROR:
			failed = errorOf(a)
			return true
		case failed == nil:
			failed = f(a)
		}
		return !dump
	})
	if err = errors.Join(failed, err); err != nil {
		return fmt.Errorf("%s: %w", m.what, err)
	}
	return nil
}

func errorOf(a syscall.NetlinkMessage) error {
	if len(a.Data) < 4 {
		return syscall.EBADMSG
	}
	if n := int32(binary.NativeEndian.Uint32(a.Data)); n != 0 {
		return syscall.Errno(-n)
	}
	return nil
}

// exchange sends b and reads answers until done says it was the last.
func (r *route) exchange(b []byte, done func(syscall.NetlinkMessage) bool) error {
	if err := syscall.Sendto(r.fd, b, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buffer := make([]byte, 8<<10) // what the kernel says of an interface takes one, and it puts no more into an answer than fits
	for {
		n, _, err := syscall.Recvfrom(r.fd, buffer, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		answers, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return err
		}
		for _, a := range answers {
			if done(a) {
				return nil
			}
		}
	}
}

// Names of if_link.h that package syscall lacks.
const (
	iflaAFSpec         = 26
	iflaNetNSFD        = 28
	iflaExtMask        = 29
	skipStats          = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	iflaInfoKind       = 1
	iflaInfoData       = 2
	vethInfoPeer       = 1
	iflaInetConf       = 1
	devconfARPAnnounce = 18
	devconfARPIgnore   = 19
)

// linkHeader is a struct ifinfomsg that changes the given flags, to be set.
func linkHeader(index int, up uint32) []byte {
	b := make([]byte, 4, syscall.SizeofIfInfomsg)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, up)
	return binary.NativeEndian.AppendUint32(b, up)
}

func linkUp(index int) *message {
	return request("bring interface up", syscall.RTM_NEWLINK, 0, linkHeader(index, syscall.IFF_UP))
}

// portUp brings an interface up that will be a port of a bridge and nothing else: without addresses of version 6, for which
// the kernel would look for others that have the same, and join groups, on each port.
func portUp(name string) *message {
	m := request("bring interface up", syscall.RTM_NEWLINK, 0, linkHeader(0, syscall.IFF_UP)).text(syscall.IFLA_IFNAME, name)
	return m.nest(iflaAFSpec, nil, func() {
		m.nest(syscall.AF_INET6, nil, func() { m.attr(inet6AddrGenMode, []byte{addrGenNone}) })
	})
}

const (
	inet6AddrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE
	addrGenNone      = 1
)

// neighbour tells which hardware address an address of the bridge's network has. The kernel
// need not ask then, and does not count what it was told among the neighbours of which it keeps so many, in all network
// namespaces together (net.ipv4.neigh.default.gc_thresh3, 1024 mostly). It goes on listening to what the neighbour says.
func neighbour(index int, addr netip.Addr, mac net.HardwareAddr) *message {
	return neighbourMessage("neighbour", syscall.RTM_NEWNEIGH, syscall.NLM_F_CREATE|syscall.NLM_F_REPLACE, index, addr).attr(ndaLladdr, mac)
}

// noNeighbour takes back what neighbour told.
func noNeighbour(index int, addr netip.Addr) *message {
	return neighbourMessage("forget neighbour", syscall.RTM_DELNEIGH, 0, index, addr)
}

func neighbourMessage(what string, kind, flags uint16, index int, addr netip.Addr) *message {
	const reachable, learned = 2, 0x10 // NUD_REACHABLE, NTF_EXT_LEARNED
	h := binary.NativeEndian.AppendUint32([]byte{syscall.AF_INET, 0, 0, 0}, uint32(index))
	return request(what+" "+addr.String(), kind, flags, append(h, reachable, 0, learned, 0)).attr(ndaDst, addr.AsSlice())
}

const (
	ndaDst    = 1
	ndaLladdr = 2
)

// addressMessage is a message about an address of a link; addrFlags are a struct ifaddrmsg's.
func addressMessage(what string, kind, flags uint16, index int, p netip.Prefix, addrFlags byte) *message {
	family, scope := byte(syscall.AF_INET), byte(syscall.RT_SCOPE_UNIVERSE)
	if p.Addr().Is6() {
		family = syscall.AF_INET6
		if p.Addr().IsLinkLocalUnicast() {
			scope = syscall.RT_SCOPE_LINK
		}
	}
	h := []byte{family, byte(p.Bits()), addrFlags, scope}
	m := request(what, kind, flags, binary.NativeEndian.AppendUint32(h, uint32(index)))
	m.attr(syscall.IFA_LOCAL, p.Addr().AsSlice()).attr(syscall.IFA_ADDRESS, p.Addr().AsSlice())
	if family == syscall.AF_INET && p.Bits() < 31 && kind == syscall.RTM_NEWADDR {
		m.attr(syscall.IFA_BROADCAST, lastOf(p).AsSlice())
	}
	return m
}

// defaultRoute is the message that sends everything by way of the gateway.
func defaultRoute(index int, gateway netip.Addr) *message {
	const make = syscall.NLM_F_CREATE | syscall.NLM_F_EXCL
	h := []byte{syscall.AF_INET, 0, 0, 0, syscall.RT_TABLE_MAIN, syscall.RTPROT_BOOT, syscall.RT_SCOPE_UNIVERSE, syscall.RTN_UNICAST, 0, 0, 0, 0}
	return request("default route", syscall.RTM_NEWROUTE, make, h).
		attr(syscall.RTA_GATEWAY, gateway.AsSlice()).number(syscall.RTA_OIF, index)
}

// link is what there is to know of an interface.
type link struct {
	index   int
	flags   uint32
	name    string
	kind    string // "bridge", "veth"; "" of lo
	address string // hardware address, as bytes
	mtu     int
	qdisc   string
	program bool // an XDP program looks at its packets
	peer    int  // index of the other end, in its network namespace
}

// link returns the interface of that name. Where there is none the error is ENODEV.
func (r *route) link(name string) (l link, err error) {
	m := request("interface "+name, syscall.RTM_GETLINK, 0, linkHeader(0, 0)).number(iflaExtMask, skipStats).text(syscall.IFLA_IFNAME, name)
	err = r.ask(m, func(a syscall.NetlinkMessage) error {
		l, err = parseLink(a)
		return err
	})
	return l, err
}

func parseLink(a syscall.NetlinkMessage) (l link, err error) {
	if len(a.Data) < syscall.SizeofIfInfomsg {
		return l, syscall.EBADMSG
	}
	l.index, l.flags = int(binary.NativeEndian.Uint32(a.Data[4:])), binary.NativeEndian.Uint32(a.Data[8:])
	for kind, value := range attributes(a.Data[syscall.SizeofIfInfomsg:]) {
		switch kind {
		case syscall.IFLA_IFNAME:
			l.name = cString(value)
		case syscall.IFLA_ADDRESS:
			l.address = string(value)
		case syscall.IFLA_QDISC:
			l.qdisc = cString(value)
		case syscall.IFLA_MTU:
			if len(value) == 4 {
				l.mtu = int(binary.NativeEndian.Uint32(value))
			}
		case syscall.IFLA_LINK:
			if len(value) == 4 {
				l.peer = int(binary.NativeEndian.Uint32(value))
			}
		case iflaXDP:
			for k, v := range attributes(value) {
				l.program = l.program || k == iflaXDPAttached && len(v) > 0 && v[0] != 0
			}
		case syscall.IFLA_LINKINFO:
			for k, v := range attributes(value) {
				if k == iflaInfoKind {
					l.kind = cString(v)
				}
			}
		}
	}
	return l, nil
}

const (
	iflaXDP         = 43
	iflaXDPAttached = 2
)

// attributes yields the attributes in b, their kinds without flags. It ends where they are cut short.
func attributes(b []byte) func(yield func(kind uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			if size < 4 || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[4:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

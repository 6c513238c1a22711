package sys

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Peek is a copy of a descriptor of another process: what can be asked of an open file, socket or pipe can be asked of it,
// and asking changes nothing there. It needs Linux 5.6 and the right to trace the process.
//
// It is not an os.File, which may make the open file blocking or not blocking, and so change it for its owner.
type Peek struct{ fd int }

// NewPeek copies the descriptor fd of the process p. The process must be a thread group's leader.
func NewPeek(p *Process, fd int) (*Peek, error) {
	var copied int
	err := p.control(func(pidfd int) (err error) {
		copied, err = unix.PidfdGetfd(pidfd, fd, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd %d of %d: %w", fd, p.Pid, err)
	}
	return &Peek{copied}, nil
}

// Close gives the copy back.
func (p *Peek) Close() error { return unix.Close(p.fd) }

// Fcntl asks a question of fcntl that has no argument: F_GETPIPE_SZ, F_GET_SEALS, F_GETSIG …
func (p *Peek) Fcntl(command int) (int, error) { return unix.FcntlInt(uintptr(p.fd), command, 0) }

// Ioctl asks a question of ioctl whose answer is an int: FIONREAD, TIOCOUTQ …
func (p *Peek) Ioctl(request uint) (int, error) { return unix.IoctlGetInt(p.fd, request) }

// Option returns a socket option that is an int.
func (p *Peek) Option(level, name int) (int, error) { return unix.GetsockoptInt(p.fd, level, name) }

// PipeFacts returns the size of a pipe and the bytes in it.
func (p *Peek) PipeFacts() (size, queued int, err error) {
	if size, err = p.Fcntl(unix.F_GETPIPE_SZ); err != nil {
		return 0, 0, fmt.Errorf("size of a pipe: %w", err)
	}
	if queued, err = p.Ioctl(unix.TIOCINQ); err != nil {
		return 0, 0, fmt.Errorf("content of a pipe: %w", err)
	}
	return size, queued, nil
}

// Seals returns the seals of a memfd; its error is EINVAL for a file that cannot have any.
func (p *Peek) Seals() (int, error) { return p.Fcntl(unix.F_GET_SEALS) }

// Named is a number that the kernel gives under a name.
type Named struct {
	Name  string
	Value int
}

// SocketFacts returns the options of a socket that are numbers and that its kind has, and the bytes that wait in it to be
// read and, of a TCP socket, to be taken by its peer.
func (p *Peek) SocketFacts() []Named {
	var facts []Named
	for _, o := range socketOptions() {
		if v, err := p.Option(o.level, o.name); err == nil {
			facts = append(facts, Named{o.label, v})
		}
	}
	if v, err := p.Ioctl(unix.TIOCINQ); err == nil {
		facts = append(facts, Named{"queued", v})
	}
	if _, _, tcp := p.TCPFacts(); tcp { // of other kinds the kernel tells how much memory it uses for them
		if v, err := p.Ioctl(unix.TIOCOUTQ); err == nil {
			facts = append(facts, Named{"unsent", v})
		}
	}
	return facts
}

type socketOption struct {
	level, name int
	label       string
}

func socketOptions() []socketOption {
	const s, t, i4, i6, u = unix.SOL_SOCKET, unix.IPPROTO_TCP, unix.IPPROTO_IP, unix.IPPROTO_IPV6, unix.IPPROTO_UDP
	return []socketOption{
		{s, unix.SO_DOMAIN, "domain"}, {s, unix.SO_TYPE, "type"}, {s, unix.SO_PROTOCOL, "protocol"},
		{s, unix.SO_ACCEPTCONN, "listens"}, {s, unix.SO_REUSEADDR, "reuseaddr"}, {s, unix.SO_REUSEPORT, "reuseport"},
		{s, unix.SO_KEEPALIVE, "keepalive"}, {s, unix.SO_BROADCAST, "broadcast"}, {s, unix.SO_OOBINLINE, "oobinline"},
		{s, unix.SO_SNDBUF, "sndbuf"}, {s, unix.SO_RCVBUF, "rcvbuf"}, {s, unix.SO_PRIORITY, "priority"},
		{s, unix.SO_RCVLOWAT, "rcvlowat"}, {s, unix.SO_MARK, "mark"}, {s, unix.SO_PASSCRED, "passcred"},
		{s, unix.SO_PASSSEC, "passsec"}, {s, unix.SO_DONTROUTE, "dontroute"}, {s, unix.SO_NO_CHECK, "no_check"},
		{s, unix.SO_TIMESTAMP, "timestamp"}, {s, unix.SO_BUF_LOCK, "buf_lock"}, {s, unix.SO_PEEK_OFF, "peek_off"},
		{s, unix.SO_BUSY_POLL, "busy_poll"}, {s, unix.SO_INCOMING_CPU, "incoming_cpu"}, {s, unix.SO_TXREHASH, "txrehash"},
		{t, unix.TCP_NODELAY, "tcp nodelay"}, {t, unix.TCP_CORK, "tcp cork"}, {t, unix.TCP_KEEPIDLE, "tcp keepidle"},
		{t, unix.TCP_KEEPINTVL, "tcp keepintvl"}, {t, unix.TCP_KEEPCNT, "tcp keepcnt"}, {t, unix.TCP_SYNCNT, "tcp syncnt"},
		{t, unix.TCP_DEFER_ACCEPT, "tcp defer_accept"}, {t, unix.TCP_USER_TIMEOUT, "tcp user_timeout"},
		{t, unix.TCP_FASTOPEN, "tcp fastopen"}, {t, unix.TCP_LINGER2, "tcp linger2"}, {t, unix.TCP_WINDOW_CLAMP, "tcp window_clamp"},
		{t, unix.TCP_NOTSENT_LOWAT, "tcp notsent_lowat"}, {t, unix.TCP_QUICKACK, "tcp quickack"},
		{i4, unix.IP_TTL, "ip ttl"}, {i4, unix.IP_TOS, "ip tos"}, {i4, unix.IP_FREEBIND, "ip freebind"},
		{i4, unix.IP_TRANSPARENT, "ip transparent"}, {i4, unix.IP_PKTINFO, "ip pktinfo"}, {i4, unix.IP_RECVTTL, "ip recvttl"},
		{i4, unix.IP_RECVTOS, "ip recvtos"}, {i4, unix.IP_MTU_DISCOVER, "ip mtu_discover"},
		{i4, unix.IP_BIND_ADDRESS_NO_PORT, "ip bind_address_no_port"}, {i4, unix.IP_MULTICAST_TTL, "ip multicast_ttl"},
		{i6, unix.IPV6_V6ONLY, "ipv6 v6only"}, {i6, unix.IPV6_UNICAST_HOPS, "ipv6 unicast_hops"},
		{i6, unix.IPV6_RECVPKTINFO, "ipv6 recvpktinfo"}, {i6, unix.IPV6_TCLASS, "ipv6 tclass"},
		{i6, unix.IPV6_FREEBIND, "ipv6 freebind"}, {u, unix.UDP_CORK, "udp cork"}, {u, unix.UDP_SEGMENT, "udp segment"},
	}
}

// TCPFacts returns the state of a TCP socket and, of one that listens, how many connections may wait; ok is false for any
// other socket.
func (p *Peek) TCPFacts() (state, backlog int, ok bool) {
	info, err := unix.GetsockoptTCPInfo(p.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, 0, false
	}
	const listens = 10 // of such a socket the kernel puts the length of the queue in this field
	if info.State == listens {
		backlog = int(info.Sacked)
	}
	return int(info.State), backlog, true
}

// SocketNames returns the address that a socket is bound to and that of its peer; an empty string where there is none.
// Those of unix sockets are their paths, with a leading "@" for an abstract one.
func (p *Peek) SocketNames() (local, peer string) {
	if a, err := unix.Getsockname(p.fd); err == nil {
		local = addressText(a)
	}
	if a, err := unix.Getpeername(p.fd); err == nil {
		peer = addressText(a)
	}
	return local, peer
}

func addressText(a unix.Sockaddr) string {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrUnix:
		return a.Name
	case nil:
		return ""
	default:
		return fmt.Sprintf("%+v", a)
	}
}

// The kinds of thing that two threads can share, for [Shares]: the numbers that kcmp has for them.
const (
	shareFile   = 0
	ShareMemory = 1 // the address space
	ShareFiles  = 2 // the descriptor table
	ShareFS     = 3 // working directory, root, umask
	ShareSignal = 4 // the signal handlers
)

// Shares says whether two threads of the host have the same of one kind of thing. It needs CONFIG_KCMP.
func Shares(tid1, tid2, what int) (bool, error) { return kcmp(tid1, tid2, what, 0, 0) }

// SameFile says whether two descriptors are the same open file: made by dup, by a fork, or by passing one on.
func SameFile(pid1, fd1, pid2, fd2 int) (bool, error) {
	return kcmp(pid1, pid2, shareFile, fd1, fd2)
}

func kcmp(pid1, pid2, kind, i1, i2 int) (bool, error) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), uintptr(kind), uintptr(i1), uintptr(i2), 0)
	if errno != 0 {
		return false, fmt.Errorf("kcmp %d %d: %w", pid1, pid2, errno)
	}
	return r == 0, nil
}

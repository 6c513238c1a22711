package criu

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Numbers that CRIU takes over from the kernel.
const (
	protoTCP, protoUDP  = 6, 17
	stateClose          = 7
	stateListen         = 10
	familyIP, familyIP6 = 2, 10
)

func (im *Images) inet() ([]*sk_inet.InetSkEntry, error) {
	files, err := im.order()
	if err != nil {
		return nil, err
	}
	var out []*sk_inet.InetSkEntry
	for _, f := range files {
		if s := f.GetIsk(); s != nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// Listeners returns the sockets that take connections (TCP) or datagrams from anybody (UDP), each address once.
func (im *Images) Listeners() ([]snapshot.Listener, error) {
	return im.sockets(func(s *sk_inet.InetSkEntry, _ netip.Addr) bool {
		switch s.GetProto() {
		case protoTCP:
			return s.GetState() == stateListen
		case protoUDP:
			return s.GetSrcPort() != 0 && s.GetDstPort() == 0
		}
		return false
	})
}

// Bound returns the sockets that a restore binds to one specific address of the container, neither wildcard nor loopback:
// an address that must exist in the clone's network namespace. Established TCP connections, which are restored closed,
// are not among them.
func (im *Images) Bound() ([]snapshot.Listener, error) {
	return im.sockets(func(s *sk_inet.InetSkEntry, a netip.Addr) bool {
		if s.GetProto() == protoTCP && connected(s) {
			return false
		}
		return s.GetSrcPort() != 0 && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
	})
}

func (im *Images) sockets(want func(*sk_inet.InetSkEntry, netip.Addr) bool) ([]snapshot.Listener, error) {
	all, err := im.inet()
	if err != nil {
		return nil, err
	}
	var out []snapshot.Listener
	for _, s := range all {
		a, ok := address(s.GetFamily(), s.GetSrcAddr())
		if !ok || !want(s, a) {
			continue
		}
		l := snapshot.Listener{Proto: protocol(s), Address: a, Port: uint16(s.GetSrcPort())}
		if !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out, nil
}

// ClosedTCP returns how many TCP connections a restore leaves closed: those that were not closed or listening when they
// were dumped, if the dump was told to close them.
func (im *Images) ClosedTCP() (int, error) {
	all, err := im.inet()
	if err != nil || !im.inventory.GetTcpClose() {
		return 0, err
	}
	n := 0
	for _, s := range all {
		if s.GetProto() == protoTCP && connected(s) {
			n++
		}
	}
	return n, nil
}

func connected(s *sk_inet.InetSkEntry) bool {
	return s.GetState() != stateListen && s.GetState() != stateClose
}

func protocol(s *sk_inet.InetSkEntry) string {
	switch s.GetProto() {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	}
	return "raw"
}

// address decodes an address: words in which the bytes lie as in the packet.
func address(family uint32, words []uint32) (netip.Addr, bool) {
	var b []byte
	for _, w := range words[:min(len(words), 4)] {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	switch {
	case family == familyIP && len(b) >= 4:
		b = b[:4]
	case family != familyIP6 || len(b) < 16:
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}

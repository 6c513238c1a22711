package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// meddling are the capabilities with which a process could change something of its network, or of how the kernel treats it.
var meddling = []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"}

// Confined says whether the processes of a container like this one cannot change anything of its network but their own
// sockets: its spec bounds their capabilities, and /proc/sys is read-only for them. Only then may a network be used again,
// and only for another clone of the same snapshot, which has the same kernel parameters.
func Confined(cfg *snapshot.Config) bool {
	var sp struct {
		Process struct {
			Capabilities *struct { // without it a process has all
				Bounding []string `json:"bounding"`
			} `json:"capabilities"`
		} `json:"process"`
	}
	if len(cfg.Spec) == 0 || json.Unmarshal(cfg.Spec, &sp) != nil {
		return false
	}
	c := sp.Process.Capabilities
	if c == nil || slices.ContainsFunc(c.Bounding, func(name string) bool { return slices.Contains(meddling, strings.ToUpper(name)) }) {
		return false
	}
	return slices.ContainsFunc(cfg.Mounts, func(m snapshot.Mount) bool { return m.Path == "/proc/sys" && slices.Contains(m.Flags, "ro") })
}

// Reusable says with an error why another container cannot have the network that [Bridge.Attach] or [Bridge.Readdress]
// made as n. The container that had it was [Confined], and has no process left: its cgroup could be removed. TCP connections
// that outlive their sockets, such as those in TIME_WAIT, are ended, without a word to the other side. A netlink socket
// lives on for some milliseconds after it was closed; somebody who waits a little may find fit what was not.
func (b Bridge) Reusable(ns *Netns, n snapshot.Network) error {
	r, err := ns.route()
	if err == nil {
		err = errors.Join(b.sameLinks(r, n), b.sameAddresses(r, n), b.sameRoutes(r, n))
	}
	if err == nil {
		err = ns.endConnections()
	}
	if err != nil {
		return fmt.Errorf("use the network of %s again: %w", n.Address, err)
	}
	return nil
}

func (b Bridge) sameLinks(r *route, n snapshot.Network) error {
	const watched = syscall.IFF_UP | syscall.IFF_PROMISC | syscall.IFF_ALLMULTI | syscall.IFF_NOARP
	var seen []string
	err := r.ask(request("interfaces", syscall.RTM_GETLINK, syscall.NLM_F_DUMP, linkHeader(0, 0)).number(iflaExtMask, skipStats),
		func(a syscall.NetlinkMessage) error {
			l, err := parseLink(a)
			seen = append(seen, l.name)
			if err != nil || l.flags&watched != syscall.IFF_UP || l.program || l.qdisc != "noqueue" ||
				l.name == eth0 && (l.kind != "veth" || net.HardwareAddr(l.address).String() != n.MAC || l.mtu != 1500) {
				return errors.Join(err, fmt.Errorf("interface %s is not as it was", l.name))
			}
			return nil
		})
	if err == nil && !slices.Equal(seen, []string{"lo", eth0}) {
		err = fmt.Errorf("it has the interfaces %v", seen)
	}
	return err
}

func (b Bridge) sameAddresses(r *route, n snapshot.Network) error {
	ours := []netip.Prefix{netip.PrefixFrom(n.Address, n.Bits)}
	for _, a := range n.Aliases {
		ours = append(ours, netip.PrefixFrom(a, a.BitLen()))
	}
	found := 0
	err := r.ask(request("addresses", syscall.RTM_GETADDR, syscall.NLM_F_DUMP, make([]byte, 8)), func(a syscall.NetlinkMessage) error {
		p := parseAddress(a)
		switch {
		case slices.Contains(ours, p):
			found++
		case p.Addr().IsLoopback(), p.Addr() == linkLocal(n.Address):
		default:
			return fmt.Errorf("it has the address %s", p)
		}
		return nil
	})
	if err == nil && found != len(ours) {
		err = fmt.Errorf("of its %d addresses it has %d", len(ours), found)
	}
	return err
}

func parseAddress(a syscall.NetlinkMessage) netip.Prefix {
	if len(a.Data) < 8 {
		return netip.Prefix{}
	}
	var addr netip.Addr
	for kind, value := range attributes(a.Data[8:]) {
		if kind == syscall.IFA_ADDRESS {
			addr, _ = netip.AddrFromSlice(value)
		}
	}
	return netip.PrefixFrom(addr, int(a.Data[1]))
}

// linkLocal is the address of version 6 that the kernel gives to eth0 of the container with the address.
func linkLocal(a netip.Addr) netip.Addr {
	m := macOf(a)
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

func (b Bridge) sameRoutes(r *route, n snapshot.Network) error {
	defaults := 0
	err := r.ask(request("routes", syscall.RTM_GETROUTE, syscall.NLM_F_DUMP, make([]byte, syscall.SizeofRtMsg)), func(a syscall.NetlinkMessage) error {
		if len(a.Data) < syscall.SizeofRtMsg {
			return syscall.EBADMSG
		}
		family, bits, protocol := a.Data[0], a.Data[1], a.Data[5]
		if protocol == syscall.RTPROT_KERNEL {
			return nil
		}
		for kind, value := range attributes(a.Data[syscall.SizeofRtMsg:]) {
			if kind == syscall.RTA_GATEWAY && family == syscall.AF_INET && bits == 0 && slices.Equal(value, n.Gateway.AsSlice()) {
				defaults++
				return nil
			}
		}
		return errors.New("it has routes of its own")
	})
	if err == nil && defaults != 1 {
		err = errors.New("its default route is gone")
	}
	return err
}

// Readdress makes the network of container from, which is [Bridge.Reusable] and was attached as was, that of container to: it
// gets another address, and all that goes by it, as if Attach had just made it. The old address is free with that. On an
// error neither is leased, and the network is good for nothing but to be closed, unless the error is that from has no lease.
func (b Bridge) Readdress(ns *Netns, from, to string, was snapshot.Network, addrs []netip.Addr, ports []snapshot.Listener) (n snapshot.Network, err error) {
	addr, err := b.swap(was.Address, from, to)
	if err != nil {
		return n, fmt.Errorf("readdress %s: %w", was.Address, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("readdress %s to %s: %w", was.Address, addr, err), b.Free(to, addr))
		}
	}()
	n = b.networkAt(addr)
	also := newAliases(addr, addrs, ports)
	n.Aliases = also.all
	if len(also.v4) == 0 && slices.ContainsFunc(was.Aliases, netip.Addr.Is4) {
		return n, errors.New("its aliases are no longer needed")
	}
	inside, err := ns.route()
	if err != nil {
		return n, err
	}
	eth, err := inside.link(eth0)
	if err != nil {
		return n, err
	}
	host, err := openRoute()
	if err != nil {
		return n, err
	}
	defer host.Close()
	bridge, err := host.link(b.Name)
	if err != nil {
		return n, err
	}
	if err := inside.do(b.move(eth.index, was, n, also, net.HardwareAddr(bridge.address))...); err != nil {
		return n, err
	}
	if err := inside.moveLocal(eth.index, was.Address, addr); err != nil {
		return n, err
	}
	// The bridge would look for the old hardware address here, wherever it is by then.
	if err := host.do(neighbour(bridge.index, addr, macOf(addr))); err != nil {
		return n, err
	}
	if err := host.do(forget(eth.peer, macOf(was.Address))); err != nil && !errors.Is(err, syscall.ENOENT) {
		return n, err
	}
	return n, redirect(ns, addr, also)
}

// swap leases to the id to another address than the one that is leased to from, which is free then.
func (b Bridge) swap(was netip.Addr, from, to string) (netip.Addr, error) {
	l, err := openLeases(b.Dir, b.Subnet)
	if err != nil {
		return netip.Addr{}, err
	}
	defer l.Close()
	addr, err := l.swap(was, from, to)
	if err != nil {
		_, lost := l.give(was, to)
		err = errors.Join(err, lost)
	}
	return addr, err
}

// move returns what turns one network into the other. The default route goes with the interface's last address.
func (b Bridge) move(eth int, was, n snapshot.Network, also aliases, gateway net.HardwareAddr) []*message {
	list := []*message{
		addressMessage("drop address "+was.Address.String(), syscall.RTM_DELADDR, 0, eth, netip.PrefixFrom(was.Address, was.Bits), 0),
		request("hardware address", syscall.RTM_NEWLINK, 0, linkHeader(eth, 0)).attr(syscall.IFLA_ADDRESS, macOf(n.Address)),
		b.address(eth, n.Address),
		defaultRoute(eth, n.Gateway),
		neighbour(eth, n.Gateway, gateway), // a change of the hardware address has the kernel forget all
	}
	for _, a := range was.Aliases {
		if !slices.Contains(also.all, a) {
			list = append(list, addressMessage("drop alias "+a.String(), syscall.RTM_DELADDR, 0, loopback, netip.PrefixFrom(a, a.BitLen()), 0))
		}
	}
	return append(list, also.messages(eth)...)
}

// moveLocal changes the address of version 6 that goes with the hardware address, where there is one: the kernel made the
// old one when the interface came up, and makes no other.
func (r *route) moveLocal(eth int, from, to netip.Addr) error {
	err := r.do(addressMessage("drop link-local address", syscall.RTM_DELADDR, 0, eth, netip.PrefixFrom(linkLocal(from), 64), 0))
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.do(addressMessage("link-local address", syscall.RTM_NEWADDR, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, eth,
		netip.PrefixFrom(linkLocal(to), 64), syscall.IFA_F_NODAD))
}

// forget is the message that makes a bridge forget by which of its ports it has seen the hardware address.
func forget(port int, mac net.HardwareAddr) *message {
	const (
		viaBridge = 4 // NTF_MASTER
		lladdr    = 2 // NDA_LLADDR
	)
	h := binary.NativeEndian.AppendUint32([]byte{syscall.AF_BRIDGE, 0, 0, 0}, uint32(port))
	return request("forget "+mac.String(), syscall.RTM_DELNEIGH, 0, append(h, 0, 0, viaBridge, 0)).attr(lladdr, mac)
}

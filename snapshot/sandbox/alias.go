package sandbox

import (
	"net/netip"
	"slices"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// aliases are the addresses that a container answers for inside of its network alone, and the sockets bound to them.
type aliases struct {
	all    []netip.Addr // those that are needed: not loopback, not the container's own
	v4     []netip.Addr // of these
	turned []snapshot.Listener
}

func newAliases(own netip.Addr, addrs []netip.Addr, ports []snapshot.Listener) (s aliases) {
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == own || slices.Contains(s.all, a) {
			continue
		}
		s.all = append(s.all, a)
		if a.Is4() {
			s.v4 = append(s.v4, a)
		}
	}
	for _, p := range ports {
		p.Address = p.Address.Unmap()
		if p.Port != 0 && slices.Contains(s.v4, p.Address) && (p.Proto == "tcp" || p.Proto == "udp") {
			s.turned = append(s.turned, p)
		}
	}
	return s
}

// messages put the addresses on lo. Before one is there, the container must neither answer who asks the bridge for an
// address of lo, which may be another container's, nor claim it when it asks itself: eth0 is told so first.
func (s aliases) messages(eth0 int) []*message {
	if len(s.all) == 0 {
		return nil
	}
	list := []*message{hideLoopback(eth0)}
	for _, a := range s.all {
		var flags byte
		if a.Is6() {
			flags = syscall.IFA_F_NODAD
		}
		list = append(list, addressMessage("alias "+a.String(), syscall.RTM_NEWADDR, syscall.NLM_F_CREATE|syscall.NLM_F_REPLACE,
			loopback, netip.PrefixFrom(a, a.BitLen()), flags))
	}
	return list
}

// hideLoopback sets the interface's arp_ignore and arp_announce.
func hideLoopback(index int) *message {
	m := request("hide addresses of lo", syscall.RTM_NEWLINK, 0, linkHeader(index, 0))
	return m.nest(iflaAFSpec, nil, func() {
		m.nest(syscall.AF_INET, nil, func() {
			m.nest(iflaInetConf, nil, func() { m.number(devconfARPIgnore, 1).number(devconfARPAnnounce, 2) })
		})
	})
}

package sandbox

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// alias puts the addresses on lo of ns and turns the ports to them. It returns those that were needed: not loopback, not
// the container's own.
func alias(h *netlink.Handle, ns *Netns, own netip.Addr, aliases []netip.Addr, ports []snapshot.Listener) ([]netip.Addr, error) {
	var used, used4 []netip.Addr
	for _, a := range aliases {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == own || slices.Contains(used, a) {
			continue
		}
		used = append(used, a)
		if a.Is4() {
			used4 = append(used4, a)
		}
	}
	if len(used) == 0 {
		return nil, nil
	}
	// Before the address is there: the container must neither answer who asks the bridge for an address of lo, which
	// may be another container's, nor claim it when it asks itself.
	if err := sys.InNetns(ns.f, hideLoopback); err != nil {
		return nil, err
	}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}
	for _, a := range used {
		addr := address(a, a.BitLen())
		if a.Is6() {
			addr.Flags = syscall.IFA_F_NODAD
		}
		if err := h.AddrReplace(lo, addr); err != nil {
			return nil, fmt.Errorf("alias %s: %w", a, err)
		}
	}
	var turned []snapshot.Listener
	for _, p := range ports {
		p.Address = p.Address.Unmap()
		if p.Port != 0 && slices.Contains(used4, p.Address) && (p.Proto == "tcp" || p.Proto == "udp") {
			turned = append(turned, p)
		}
	}
	if len(used4) == 0 {
		return used, nil
	}
	return used, redirect(ns, own, used4, turned)
}

func hideLoopback() error {
	for _, s := range []struct{ name, value string }{{"arp_ignore", "1"}, {"arp_announce", "2"}} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/"+s.name, []byte(s.value), 0); err != nil {
			return err
		}
	}
	return nil
}

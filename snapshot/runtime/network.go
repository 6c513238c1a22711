package runtime

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// observeNetwork reads the container's address, and on which bridge of this host its link ends.
func (s *Source) observeNetwork() error {
	theirs, err := proc.NamespaceInode(s.Pid, "net")
	if err != nil {
		return err
	}
	ours, err := proc.NamespaceInode(os.Getpid(), "net")
	if err != nil {
		return err
	}
	if ours == theirs {
		s.Network = snapshot.Network{Mode: "host"}
		return nil
	}
	ns, err := netns.GetFromPath(fmt.Sprintf("/proc/%d/ns/net", s.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("talk to its network namespace: %w", err)
	}
	defer inside.Close()
	s.Network, err = readNetwork(inside)
	return err
}

// readNetwork describes the link that carries the default route or, without one, the first that has an address.
func readNetwork(inside *netlink.Handle) (snapshot.Network, error) {
	none := snapshot.Network{Mode: "none"}
	links, err := inside.LinkList()
	if err != nil {
		return none, fmt.Errorf("list its links: %w", err)
	}
	var found *snapshot.Network
	for _, link := range links {
		if link.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		n, ok, err := readLink(inside, link)
		if err != nil {
			return none, err
		}
		if ok && (found == nil || !found.Gateway.IsValid() && n.Gateway.IsValid()) {
			found = &n
		}
	}
	if found == nil {
		return none, nil
	}
	return *found, nil
}

func readLink(inside *netlink.Handle, link netlink.Link) (n snapshot.Network, ok bool, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addrs, err := inside.AddrList(link, family)
		if err != nil {
			return n, false, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				continue
			}
			addr, _ := netip.AddrFromSlice(a.IP)
			bits, _ := a.Mask.Size()
			n = snapshot.Network{Mode: "bridge", Bridge: bridgeOf(link), Address: addr.Unmap(), Bits: bits,
				MAC: link.Attrs().HardwareAddr.String()}
			n.Gateway, err = gateway(inside, link, family)
			return n, true, err
		}
	}
	return n, false, nil
}

func gateway(inside *netlink.Handle, link netlink.Link, family int) (netip.Addr, error) {
	routes, err := inside.RouteList(link, family)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list routes of %s: %w", link.Attrs().Name, err)
	}
	for _, r := range routes {
		everything := r.Dst == nil
		if r.Dst != nil {
			ones, _ := r.Dst.Mask.Size()
			everything = ones == 0
		}
		if gw, ok := netip.AddrFromSlice(r.Gw); everything && ok {
			return gw.Unmap(), nil
		}
	}
	return netip.Addr{}, nil
}

// bridgeOf returns the name of the bridge that the other end of a veth is plugged into, or "" where it is not one of
// this network namespace.
func bridgeOf(link netlink.Link) string {
	if link.Type() != "veth" {
		return ""
	}
	peer, err := netlink.LinkByIndex(link.Attrs().ParentIndex)
	if err != nil || peer.Type() != "veth" || peer.Attrs().ParentIndex != link.Attrs().Index {
		return ""
	}
	master, err := netlink.LinkByIndex(peer.Attrs().MasterIndex)
	if err != nil || master.Type() != "bridge" {
		return ""
	}
	return master.Attrs().Name
}

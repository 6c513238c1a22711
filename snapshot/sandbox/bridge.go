package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"regexp"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Bridge is the host's interface that containers' networks are joined by. It, its nftables table and its addresses exist
// while a container has a lease.
type Bridge struct {
	Name   string       // of the interface, 15 bytes at most
	Subnet netip.Prefix // IPv4; the first address is the gateway's, which the host has
	Dir    string       // run-time directory with the leases
}

// bridgeName is what the kernel, nftables and cgroups all take for a name.
var bridgeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)

// Check says whether the bridge could be made.
func (b Bridge) Check() error {
	if !bridgeName.MatchString(b.Name) {
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "bridge", On: fmt.Sprintf("%q", b.Name), Err: errors.New("not a valid name of an interface"),
			Hint: "--bridge takes letters and digits, with '_', '.' and '-' among them, at most 15 in all"}
	}
	if !b.Subnet.Addr().Is4() || b.Subnet.Bits() > 30 {
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "subnet", On: b.Subnet.String(), Err: errors.New("no IPv4 subnet with room for containers"),
			Hint: "--subnet takes a prefix of 30 bits or fewer, such as 10.88.64.0/18"}
	}
	return nil
}

// container's end of the pair.
const eth0 = "eth0"

// Attach gives the container an interface eth0 in ns, with an address of its own and a default route by way of the bridge,
// which is made if it is missing. On an error nothing is left but the bridge, which goes with the next Release.
//
// The container also answers for addrs, addresses that its processes were bound to before a snapshot, but inside of ns
// alone: they are on lo, and what arrives for one of the ports at the container's own address is turned to the alias that
// the port's socket is bound to. Others of the bridge still reach whoever has the alias as an address; between him and the
// container there is no way, since each takes the other's packets for its own.
func (b Bridge) Attach(ns *Netns, id string, addrs []netip.Addr, ports []snapshot.Listener) (n snapshot.Network, err error) {
	defer func() {
		if err != nil && snapshot.KindOf(err) == snapshot.KindFailed {
			err = fmt.Errorf("attach %s to bridge %s: %w", snapshot.ShortID(id), b.Name, err)
		}
	}()
	host, err := openRoute()
	if err != nil {
		return n, err
	}
	defer host.Close()
	master, addr, err := b.lease(host, id)
	if err != nil {
		return n, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Free(id, addr))
		}
	}()
	n = b.networkAt(addr)
	name := b.hostEnd(id)
	plug := func() error {
		return host.do(b.plug(name, master.index, ns, macOf(addr)), portUp(name), neighbour(master.index, addr, macOf(addr)))
	}
	err = plug()
	if errors.Is(err, syscall.EEXIST) { // of a network of the same container's, which the kernel is still taking apart
		if err = host.do(unplug(name)); err == nil || errors.Is(err, syscall.ENODEV) {
			err = plug()
		}
	}
	if err != nil {
		return n, err
	}
	inside, err := ns.route()
	if err != nil {
		return n, err
	}
	eth, err := inside.link(eth0)
	if err != nil {
		return n, err
	}
	also := newAliases(addr, addrs, ports)
	messages := append([]*message{b.address(eth.index, addr), linkUp(eth.index), defaultRoute(eth.index, n.Gateway),
		neighbour(eth.index, n.Gateway, net.HardwareAddr(master.address))}, also.messages(eth.index)...)
	if err := inside.do(messages...); err != nil {
		return n, err
	}
	n.Aliases = also.all
	return n, redirect(ns, addr, also)
}

// networkAt is the network of a container with the address.
func (b Bridge) networkAt(addr netip.Addr) snapshot.Network {
	return snapshot.Network{Mode: "bridge", Bridge: b.Name, Address: addr, Bits: b.Subnet.Bits(), Gateway: gatewayOf(b.Subnet), MAC: macOf(addr).String()}
}

// lease takes an address for id and makes sure that the bridge is there, in one go: the bridge goes away with the last
// lease.
func (b Bridge) lease(r *route, id string) (master link, addr netip.Addr, err error) {
	if err := b.Check(); err != nil {
		return master, addr, err
	}
	l, err := openLeases(b.Dir, b.Subnet)
	if err != nil {
		return master, addr, err
	}
	defer l.Close()
	if master, err = b.ensure(r); err != nil {
		return master, addr, err
	}
	addr, err = l.take(id)
	return master, addr, err
}

// ensure returns the bridge, which it makes if it is missing. Being up is its last step.
func (b Bridge) ensure(r *route) (l link, err error) {
	l, err = r.link(b.Name)
	missing := errors.Is(err, syscall.ENODEV)
	switch {
	case missing:
	case err != nil:
		return l, err
	case l.kind != "bridge":
		return l, &snapshot.Error{Kind: snapshot.KindExists, Op: "make bridge", On: b.Name,
			Err: fmt.Errorf("the host has an interface of that name that is none (%s)", cmp.Or(l.kind, "device")), Hint: "configure another bridge name"}
	case l.flags&syscall.IFF_UP != 0:
		return l, nil
	}
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return l, err
	}
	defer h.Close()
	if err := b.make(h, missing); err != nil {
		return l, err
	}
	return r.link(b.Name)
}

// make makes the bridge, or goes on with one that somebody did not complete.
func (b Bridge) make(h *netlink.Handle, missing bool) (err error) {
	var link netlink.Link
	if missing {
		if err := b.free(h); err != nil {
			return err
		}
		// An address of its own, or the bridge's would change with every interface that joins.
		link = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.Name, HardwareAddr: macOf(gatewayOf(b.Subnet))}}
		if err := h.LinkAdd(link); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
		defer func() {
			if err != nil {
				_ = h.LinkDel(link)
			}
		}()
	} else if link, err = h.LinkByName(b.Name); err != nil {
		return err
	}
	if err := masquerade(b.table(), b.Subnet); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	if err := h.AddrReplace(link, address(gatewayOf(b.Subnet), b.Subnet.Bits())); err != nil {
		return fmt.Errorf("address of the bridge: %w", err)
	}
	return h.LinkSetUp(link)
}

// free says with an error that the host uses the subnet for something else.
func (b Bridge) free(h *netlink.Handle) error {
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		bits, _ := a.Mask.Size()
		if ok && netip.PrefixFrom(ip, bits).Overlaps(b.Subnet) {
			return &snapshot.Error{Kind: snapshot.KindExists, Op: "make bridge", On: b.Name,
				Err: fmt.Errorf("subnet %s overlaps address %s of the host", b.Subnet, a.IPNet), Hint: "configure another subnet"}
		}
	}
	return nil
}

// hostEnd is the name of the host's end of a container's pair of interfaces.
func (b Bridge) hostEnd(id string) string {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s/%s", b.Name, id)
	return fmt.Sprintf("ve%012x", sum.Sum64()&(1<<48-1))
}

// plug makes the pair of interfaces, one end on the bridge, the other in ns from the start.
func (b Bridge) plug(name string, master int, ns *Netns, mac net.HardwareAddr) *message {
	m := request("make interfaces", syscall.RTM_NEWLINK, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, linkHeader(0, 0))
	m.text(syscall.IFLA_IFNAME, name).number(syscall.IFLA_MASTER, master)
	return m.nest(syscall.IFLA_LINKINFO, nil, func() {
		m.attr(iflaInfoKind, []byte("veth")).nest(iflaInfoData, nil, func() {
			m.nest(vethInfoPeer, linkHeader(0, 0), func() {
				m.text(syscall.IFLA_IFNAME, eth0).attr(syscall.IFLA_ADDRESS, mac).number(iflaNetNSFD, int(ns.f.Fd()))
			})
		})
	})
}

func unplug(name string) *message {
	return request("remove interface "+name, syscall.RTM_DELLINK, 0, linkHeader(0, 0)).text(syscall.IFLA_IFNAME, name)
}

func (b Bridge) address(eth0 int, addr netip.Addr) *message {
	return addressMessage("address "+addr.String(), syscall.RTM_NEWADDR, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, eth0,
		netip.PrefixFrom(addr, b.Subnet.Bits()), 0)
}

// Release frees the container's address. The last one takes the bridge and the nftables table with it. A container without
// a lease is no error.
func (b Bridge) Release(id string) error {
	_, err := b.sweep(func(lease string) bool { return lease == id })
	return err
}

// Free is Release for who knows the address: others' leases are not read.
func (b Bridge) Free(id string, addr netip.Addr) error {
	l, err := openLeases(b.Dir, b.Subnet)
	if err != nil {
		return err
	}
	defer l.Close()
	last, err := l.give(addr, id)
	switch {
	case err != nil:
	case last:
		err = b.remove()
	case addr.IsValid():
		err = b.forgetNeighbour(addr)
	}
	if err != nil {
		return fmt.Errorf("free address %s of bridge %s: %w", addr, b.Name, err)
	}
	return nil
}

// sweep frees the addresses of the containers that are gone, and returns their ids.
func (b Bridge) sweep(gone func(id string) bool) ([]string, error) {
	if _, err := os.Stat(b.Dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	l, err := openLeases(b.Dir, b.Subnet)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	freed, left, err := l.free(gone)
	if err == nil && left == 0 {
		err = b.remove()
	}
	if err != nil {
		return freed, fmt.Errorf("free addresses of bridge %s: %w", b.Name, err)
	}
	return freed, nil
}

func (b Bridge) remove() error {
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(b.Name)
	_, missing := errors.AsType[netlink.LinkNotFoundError](err)
	switch {
	case missing:
	case err != nil:
		return err
	case link.Type() == "bridge":
		if err := h.LinkDel(link); err != nil {
			return err
		}
	}
	return dropTable(b.table())
}

// forgetNeighbour makes the host forget which hardware address an address has.
func (b Bridge) forgetNeighbour(addr netip.Addr) error {
	host, err := openRoute()
	if err != nil {
		return err
	}
	defer host.Close()
	l, err := host.link(b.Name)
	if err == nil {
		err = host.do(noNeighbour(l.index, addr))
	}
	if errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

func (b Bridge) table() string { return "snapd-ctr-" + b.Name }

// macOf derives a locally administered address, so that who talks to a reused network address need not forget anything.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x5c, b[0], b[1], b[2], b[3]}
}

func address(a netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
}

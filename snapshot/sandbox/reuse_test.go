package sandbox

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// answerOnce listens in the network, answers one connection by closing it first, which leaves it in TIME_WAIT, and stops.
func answerOnce(t *testing.T, ns *Netns, address, word string) {
	t.Helper()
	var l net.Listener
	must(t, sys.InNetns(ns.File(), func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	}))
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			fmt.Fprint(c, word)
			err = c.Close()
		}
		done <- err
	}()
	_, port, _ := net.SplitHostPort(address)
	expect(t, "the server", ask(t, nil, "tcp", net.JoinHostPort(addressOf(t, ns), port)), word)
	must(t, <-done)
	must(t, l.Close())
}

// addressOf returns the address of eth0.
func addressOf(t *testing.T, ns *Netns) (found string) {
	t.Helper()
	must(t, sys.InNetns(ns.File(), func() error {
		l, err := netlink.LinkByName(eth0)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err == nil && len(addrs) != 1 {
			t.Errorf("eth0 has the addresses %v", addrs)
		}
		for _, a := range addrs {
			found = a.IP.String()
		}
		return err
	}))
	return found
}

func TestReaddress(t *testing.T) {
	b := testBridge(t, "10.208.0.0/24")
	neighbour, a := attach(t, b, "neighbour", nil, nil), attach(t, b, "a", nil, nil)
	was, holder := a.Network, "a"
	for i := range 3 {
		answerOnce(t, a.ns, "0.0.0.0:80", fmt.Sprint("turn ", i))
		until(t, "the network to be fit for use again", func() bool { return b.Reusable(a.ns, was) == nil })
		id := fmt.Sprint("again", i)
		n, err := b.Readdress(a.ns, holder, id, was, nil, nil)
		must(t, err)
		t.Cleanup(func() { must(t, b.Release(id)) })
		if n.Address == was.Address || addressOf(t, a.ns) != n.Address.String() {
			t.Fatalf("readdressed from %s to %s, and eth0 has %s", was.Address, n.Address, addressOf(t, a.ns))
		}
		was, holder = n, id
	}
	serve(t, a.ns, "tcp", "0.0.0.0:80", "new")
	expect(t, "the new address, to the host", ask(t, nil, "tcp", was.Address.String()+":80"), "new to 10.208.0.1")
	expect(t, "the new address, to its neighbour", ask(t, neighbour.ns, "tcp", was.Address.String()+":80"), "new to "+neighbour.Address.String())
	serve(t, neighbour.ns, "tcp", "0.0.0.0:80", "neighbour")
	expect(t, "the neighbour", ask(t, a.ns, "tcp", neighbour.Address.String()+":80"), "neighbour to "+was.Address.String())
}

// TestReaddressGivesUpTheOld has another container get an address as soon as it is free.
func TestReaddressGivesUpTheOld(t *testing.T) {
	b := testBridge(t, "10.209.0.0/29") // five addresses
	a := attach(t, b, "a", nil, nil)
	for i := range 3 {
		attach(t, b, fmt.Sprint("other", i), nil, nil)
	}
	answerOnce(t, a.ns, "0.0.0.0:80", "a")
	until(t, "the network to be fit for use again", func() bool { return b.Reusable(a.ns, a.Network) == nil })
	n, err := b.Readdress(a.ns, "a", "again", a.Network, nil, nil)
	must(t, err)
	t.Cleanup(func() { must(t, b.Release("again")) })
	if _, err := b.Readdress(a.ns, "a", "once more", a.Network, nil, nil); err == nil {
		t.Error("the address of somebody else was given away")
	}
	heir := attach(t, b, "heir", nil, nil)
	if heir.Address != a.Address {
		t.Fatalf("the heir has %s, want %s", heir.Address, a.Address)
	}
	serve(t, heir.ns, "tcp", "0.0.0.0:80", "heir")
	serve(t, a.ns, "tcp", "0.0.0.0:80", "moved")
	expect(t, "the old address", ask(t, nil, "tcp", heir.Address.String()+":80"), "heir to 10.209.0.1")
	expect(t, "the new address", ask(t, nil, "tcp", n.Address.String()+":80"), "moved to 10.209.0.1")
}

func TestReaddressAliases(t *testing.T) {
	b := testBridge(t, "10.210.0.0/24")
	old := netip.MustParseAddr("10.210.0.99")
	ports := []snapshot.Listener{{Proto: "tcp", Address: old, Port: 80}}
	c := attach(t, b, "c", []netip.Addr{old}, ports)
	answerOnce(t, c.ns, old.String()+":80", "first")
	until(t, "the network to be fit for use again", func() bool { return b.Reusable(c.ns, c.Network) == nil })
	n, err := b.Readdress(c.ns, "c", "again", c.Network, []netip.Addr{old}, ports)
	must(t, err)
	t.Cleanup(func() { must(t, b.Release("again")) })
	serve(t, c.ns, "tcp", old.String()+":80", "second")
	expect(t, "what was bound to the old address", ask(t, nil, "tcp", n.Address.String()+":80"), "second to 10.210.0.1")
}

func TestReusableRefuses(t *testing.T) {
	b := testBridge(t, "10.211.0.0/24")
	for what, spoil := range map[string]func(eth netlink.Link) error{
		"it has the address": func(eth netlink.Link) error {
			return netlink.AddrAdd(eth, address(netip.MustParseAddr("10.211.0.200"), 24))
		},
		"routes of its own": func(eth netlink.Link) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: address(netip.MustParseAddr("192.0.2.0"), 24).IPNet})
		},
		"interface more is": func(netlink.Link) error {
			return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "more"}})
		},
		"interface eth0": func(eth netlink.Link) error { return netlink.LinkSetMTU(eth, 1400) },
		"interface lo": func(netlink.Link) error {
			return netlink.LinkSetDown(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
		},
		"default route": func(netlink.Link) error { return netlink.RouteDel(&netlink.Route{Gw: gatewayOf(b.Subnet).AsSlice()}) },
		"of its 1 addresses": func(eth netlink.Link) error {
			return netlink.AddrDel(eth, address(netip.MustParseAddr(ownAddress(eth)), 24))
		},
		"has 1 open socket": func(netlink.Link) error { return holdSocket(t) },
		"is not as it was":  func(eth netlink.Link) error { return netlink.SetPromiscOn(eth) },
		"eth0 is not as it w": func(eth netlink.Link) error {
			return netlink.LinkSetHardwareAddr(eth, macOf(netip.MustParseAddr("10.9.9.9")))
		},
	} {
		id := strings.ReplaceAll(what, " ", "-")
		a := attach(t, b, id, nil, nil)
		must(t, b.Reusable(a.ns, a.Network))
		must(t, sys.InNetns(a.ns.File(), func() error {
			eth, err := netlink.LinkByName(eth0)
			if err == nil {
				err = spoil(eth)
			}
			return err
		}))
		// The sockets by which it was spoilt count as well, for a moment.
		until(t, what, func() bool {
			err := b.Reusable(a.ns, a.Network)
			if err == nil {
				t.Fatalf("Reusable finds nothing wrong, want %q", what)
			}
			return strings.Contains(err.Error(), what)
		})
	}
}

func ownAddress(eth netlink.Link) string {
	addrs, err := netlink.AddrList(eth, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		return "0.0.0.0"
	}
	return addrs[0].IP.String()
}

// holdSocket opens a socket in the calling thread's namespace, as somebody may have been handed one.
func holdSocket(t *testing.T) error {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return err
}

func TestConfined(t *testing.T) {
	spec := func(capabilities string) json.RawMessage {
		return json.RawMessage(`{"process":{` + capabilities + `}}`)
	}
	readonly := []snapshot.Mount{{Path: "/proc/sys", Flags: []string{"ro", "nosuid"}}}
	for _, c := range []struct {
		cfg  snapshot.Config
		want bool
	}{
		{snapshot.Config{Spec: spec(`"capabilities":{"bounding":["CAP_CHOWN","CAP_NET_RAW"]}`), Mounts: readonly}, true},
		{snapshot.Config{Spec: spec(`"capabilities":{"bounding":["CAP_CHOWN","CAP_NET_ADMIN"]}`), Mounts: readonly}, false},
		{snapshot.Config{Spec: spec(`"capabilities":{"bounding":["cap_sys_admin"]}`), Mounts: readonly}, false},
		{snapshot.Config{Spec: spec(`"capabilities":{}`)}, false},
		{snapshot.Config{Spec: spec(`"args":[]`), Mounts: readonly}, false},
		{snapshot.Config{Mounts: readonly}, false},
		{snapshot.Config{Spec: spec(`"capabilities":{}`), Mounts: []snapshot.Mount{{Path: "/proc/sys", Flags: []string{"rw"}}}}, false},
	} {
		if got := Confined(&c.cfg); got != c.want {
			t.Errorf("Confined(%s, %v) = %v, want %v", c.cfg.Spec, c.cfg.Mounts, got, c.want)
		}
	}
}

func FuzzParseSockets(f *testing.F) {
	b, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("sockets: used 12\nTCP: inuse 3 orphan 0 tw 2 alloc 4 mem 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		once, err := parseSockets(text)
		if err != nil {
			return
		}
		twice, err := parseSockets(text + "\nTCP: inuse 1\n")
		if err != nil || twice.open != once.open || twice.connections != once.connections+1 {
			t.Errorf("%q has %v, and with one more %v, %v", text, once, twice, err)
		}
	})
}

func TestParseSockets(t *testing.T) {
	s, err := parseSockets("sockets: used 12\nTCP: inuse 3 orphan 9 tw 2 alloc 4 mem 1\nUDP: inuse 7 mem 2\nTCP6: inuse 1\n")
	if err != nil || s != (sockets{12, 6}) {
		t.Errorf("parseSockets = %v, %v, want 12 open and 6 connections", s, err)
	}
}

// TestReusableEndsConnections leaves one that nobody has a socket of in a state that lasts.
func TestReusableEndsConnections(t *testing.T) {
	b := testBridge(t, "10.212.0.0/24")
	a := attach(t, b, "a", nil, nil)
	answerOnce(t, a.ns, "0.0.0.0:80", "a")
	var before sockets
	must(t, sys.InNetns(a.ns.File(), func() (err error) { before, err = countSockets(); return err }))
	if before.connections == 0 {
		t.Fatal("no connection is left to be ended")
	}
	deadline := time.Now().Add(5 * time.Second)
	for err := b.Reusable(a.ns, a.Network); err != nil; err = b.Reusable(a.ns, a.Network) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	var after sockets
	must(t, sys.InNetns(a.ns.File(), func() (err error) { after, err = countSockets(); return err }))
	if after.connections != 0 {
		t.Errorf("%d connections are left", after.connections)
	}
}

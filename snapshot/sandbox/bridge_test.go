package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// testBridge returns a bridge of the test's own network namespace, and checks at the end that nothing of it is left.
func testBridge(t *testing.T, subnet string) Bridge {
	t.Helper()
	b := Bridge{Name: "sdtest0", Subnet: netip.MustParsePrefix(subnet), Dir: filepath.Join(t.TempDir(), "net")}
	before := interfaces(t)
	t.Cleanup(func() {
		until(t, "the interfaces to go", func() bool { return slices.Equal(interfaces(t), before) })
		c, err := nftables.New()
		must(t, err)
		tables, err := c.ListTables()
		must(t, err)
		if len(tables) != 0 {
			t.Errorf("nftables table %s is left", tables[0].Name)
		}
		files, err := filepath.Glob(b.Dir + "/*.*")
		must(t, err)
		if len(files) != 0 {
			t.Errorf("leases are left: %v", files)
		}
	})
	return b
}

func interfaces(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // the kernel is taking some away
		links, err = netlink.LinkList()
	}
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

type attached struct {
	ns *Netns
	snapshot.Network
}

func attach(t *testing.T, b Bridge, id string, aliases []netip.Addr, ports []snapshot.Listener) attached {
	t.Helper()
	ns, err := NewNetns()
	must(t, err)
	t.Cleanup(func() {
		must(t, b.Release(id))
		must(t, ns.Close())
	})
	n, err := b.Attach(ns, id, aliases, ports)
	must(t, err)
	return attached{ns, n}
}

// serve answers every connection or datagram to the address, inside of ns, with word and the address that the other
// side has for it.
func serve(t *testing.T, ns *Netns, network, address, word string) {
	t.Helper()
	must(t, sys.InNetns(ns.File(), func() error {
		if network == "udp" {
			c, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				for b := make([]byte, 64); ; {
					_, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = c.WriteTo([]byte(word+" to "+host(from)), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s to %s", word, host(c.RemoteAddr()))
				c.Close()
			}
		}()
		return nil
	}))
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

// ask returns what the address answers, asked from inside of ns, or of the host where ns is nil.
func ask(t *testing.T, ns *Netns, network, address string) string {
	t.Helper()
	var c net.Conn
	dial := func() (err error) {
		d := net.Dialer{Timeout: 3 * time.Second}
		c, err = d.Dial(network, address)
		return err
	}
	var err error
	if ns == nil {
		err = dial()
	} else {
		err = sys.InNetns(ns.File(), dial)
	}
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
	if network == "udp" {
		_, _ = c.Write([]byte("?"))
		b := make([]byte, 64)
		n, err := c.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s answers %q, want %q", what, got, want)
	}
}

func TestAttachReaches(t *testing.T) {
	b := testBridge(t, "10.201.0.0/24")
	a, c := attach(t, b, "a", nil, nil), attach(t, b, "c", nil, nil)
	if a.Address.String() != "10.201.0.2" || a.Gateway.String() != "10.201.0.1" || a.Bits != 24 || c.Address == a.Address {
		t.Errorf("attached as %+v and %+v", a.Network, c.Network)
	}
	serve(t, a.ns, "tcp", "0.0.0.0:80", "a")
	serve(t, a.ns, "tcp", "127.0.0.1:81", "lo")
	expect(t, "the container, to the host", ask(t, nil, "tcp", a.Address.String()+":80"), "a to 10.201.0.1")
	expect(t, "the container, to its neighbour", ask(t, c.ns, "tcp", a.Address.String()+":80"), "a to "+c.Address.String())
	expect(t, "the container, to itself", ask(t, a.ns, "tcp", "127.0.0.1:81"), "lo to 127.0.0.1")

	// What goes elsewhere leaves with the host's address.
	far, err := NewNetns()
	must(t, err)
	defer far.Close()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink", Flags: net.FlagUp}, PeerName: "eth0", PeerNamespace: netlink.NsFd(far.File().Fd())}))
	up, err := netlink.LinkByName("uplink")
	must(t, err)
	defer func() { _ = netlink.LinkDel(up) }()
	must(t, netlink.AddrAdd(up, address(netip.MustParseAddr("192.0.2.1"), 24)))
	must(t, sys.InNetns(far.File(), func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, address(netip.MustParseAddr("192.0.2.2"), 24)); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	serve(t, far, "tcp", "192.0.2.2:80", "far")
	expect(t, "a far host", ask(t, a.ns, "tcp", "192.0.2.2:80"), "far to 192.0.2.1")
}

// TestNeighbours looks at what the host and the container are told of one another's hardware addresses: a container more is no
// neighbour more that the kernel counts.
func TestNeighbours(t *testing.T) {
	b := testBridge(t, "10.201.0.0/24")
	attach(t, b, "stays", nil, nil)
	a := attach(t, b, "a", nil, nil)
	known := func(of netip.Addr) (found []netlink.Neigh) {
		l, err := netlink.LinkByName(b.Name)
		must(t, err)
		all, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
		must(t, err)
		return slices.DeleteFunc(all, func(n netlink.Neigh) bool { return n.IP.String() != of.String() })
	}
	told := func(n []netlink.Neigh, of netip.Addr) bool {
		const learned = 0x10 // NTF_EXT_LEARNED
		return len(n) == 1 && n[0].Flags&learned != 0 && n[0].HardwareAddr.String() == macOf(of).String()
	}
	if n := known(a.Address); !told(n, a.Address) {
		t.Errorf("the host's neighbour %s: %+v", a.Address, n)
	}
	must(t, sys.InNetns(a.ns.File(), func() error {
		n, err := netlink.NeighList(0, netlink.FAMILY_V4)
		if !told(n, a.Gateway) {
			t.Errorf("the container's neighbours: %+v, %v", n, err)
		}
		return err
	}))
	port, err := netlink.LinkByName(b.hostEnd("a"))
	must(t, err)
	if addrs, err := netlink.AddrList(port, netlink.FAMILY_V6); err != nil || len(addrs) > 0 || port.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("the bridge's port has the addresses %v, %v; flags %v", addrs, err, port.Attrs().Flags)
	}
	must(t, b.Free("a", a.Address))
	if n := known(a.Address); len(n) > 0 {
		t.Errorf("neighbours that are gone: %+v", n)
	}
}

// TestAttachAgain gives a container a network while the kernel has not yet taken apart the one that it had.
func TestAttachAgain(t *testing.T) {
	b := testBridge(t, "10.201.0.0/24")
	first := attach(t, b, "a", nil, nil)
	ns, err := NewNetns()
	must(t, err)
	defer ns.Close()
	must(t, b.Free("a", first.Address))
	n, err := b.Attach(ns, "a", nil, nil)
	must(t, err)
	serve(t, ns, "tcp", "0.0.0.0:80", "again")
	expect(t, "the container", ask(t, nil, "tcp", n.Address.String()+":80"), "again to 10.201.0.1")
	must(t, b.Free("a", n.Address))
}

// TestAliases clones, so to say, a container whose servers are bound to its address while it lives on.
func TestAliases(t *testing.T) {
	b := testBridge(t, "10.202.0.0/24")
	original := attach(t, b, "original", nil, nil)
	old := original.Address
	ports := []snapshot.Listener{{Proto: "tcp", Address: old, Port: 80}, {Proto: "udp", Address: old, Port: 53},
		{Proto: "tcp", Address: netip.IPv4Unspecified(), Port: 8080}}
	v6 := netip.MustParseAddr("fd00::7")
	var clones []attached
	for i := range 2 {
		clones = append(clones, attach(t, b, fmt.Sprint("clone", i), []netip.Addr{old, v6, netip.MustParseAddr("127.0.0.1")}, ports))
	}
	serve(t, original.ns, "tcp", old.String()+":80", "original")
	for i, c := range clones {
		serve(t, c.ns, "tcp", old.String()+":80", fmt.Sprint("clone", i))
		serve(t, c.ns, "udp", old.String()+":53", fmt.Sprint("name", i))
		serve(t, c.ns, "tcp", "0.0.0.0:8080", fmt.Sprint("any", i))
		serve(t, c.ns, "tcp6", "[fd00::7]:80", fmt.Sprint("six", i))
		if !slices.Equal(c.Aliases, []netip.Addr{old, v6}) {
			t.Errorf("aliases are %v, want %v and %v", c.Aliases, old, v6)
		}
	}
	for i, c := range clones {
		own := c.Address.String()
		expect(t, "what was bound to the old address", ask(t, nil, "tcp", own+":80"), fmt.Sprintf("clone%d to 10.202.0.1", i))
		expect(t, "the same over UDP", ask(t, nil, "udp", own+":53"), fmt.Sprintf("name%d to 10.202.0.1", i))
		expect(t, "what was bound to no address", ask(t, nil, "tcp", own+":8080"), fmt.Sprintf("any%d to 10.202.0.1", i))
		expect(t, "from the neighbour", ask(t, clones[1-i].ns, "tcp", own+":80"), fmt.Sprintf("clone%d to %s", i, clones[1-i].Address))
		if got := ask(t, c.ns, "tcp", own+":80"); !strings.HasPrefix(got, fmt.Sprintf("clone%d to ", i)) {
			t.Errorf("the clone's own address, from inside, answers %q", got)
		}
		expect(t, "the alias from inside", ask(t, c.ns, "tcp", old.String()+":80"), fmt.Sprintf("clone%d to %s", i, old))
		expect(t, "the alias of version 6 from inside", ask(t, c.ns, "tcp", "[fd00::7]:80"), fmt.Sprintf("six%d to fd00::7", i))
	}
	for range 3 {
		must(t, flushNeighbours())
		expect(t, "the old address", ask(t, nil, "tcp", old.String()+":80"), "original to 10.202.0.1")
	}
	// A socket bound to the old address that connects to somebody says it is the clone.
	var got string
	must(t, sys.InNetns(clones[0].ns.File(), func() error {
		d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: old.AsSlice()}}
		conn, err := d.Dial("tcp", clones[1].Address.String()+":8080")
		if err != nil {
			return err
		}
		defer conn.Close()
		answer, err := io.ReadAll(conn)
		got = string(answer)
		return err
	}))
	expect(t, "a neighbour", got, "any1 to "+clones[0].Address.String())
}

func flushNeighbours() error {
	all, err := netlink.NeighList(0, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, n := range all {
		if n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) == 0 {
			if err := netlink.NeighDel(&n); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestAttachMany(t *testing.T) {
	b := testBridge(t, "10.203.0.0/24")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[netip.Addr]string)
	began := time.Now()
	for i := range 50 {
		wg.Go(func() {
			id := fmt.Sprint("many", i)
			ns, err := NewNetns()
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() {
				if err := b.Release(id); err != nil {
					t.Error(err)
				}
				ns.Close()
			})
			n, err := b.Attach(ns, id, nil, nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, ok := seen[n.Address]; ok {
				t.Errorf("%s and %s have the address %s", id, other, n.Address)
			}
			seen[n.Address] = id
		})
	}
	wg.Wait()
	t.Logf("50 at once: %v", time.Since(began))
	if len(seen) != 50 {
		t.Errorf("%d attached, want 50", len(seen))
	}
}

func TestLeasesRest(t *testing.T) {
	b := testBridge(t, "10.204.0.0/29") // five addresses for containers
	var got []string
	for i := range 7 {
		a := attach(t, b, fmt.Sprint("id", i), nil, nil)
		got = append(got, strings.TrimPrefix(a.Address.String(), "10.204.0."))
		if i == 0 {
			continue // keeps the bridge
		}
		must(t, b.Release(fmt.Sprint("id", i)))
		must(t, a.ns.Close())
	}
	if want := "2 3 4 5 6 3 4"; strings.Join(got, " ") != want {
		t.Errorf("addresses leased: %v, want %s", got, want)
	}
	for i := range 4 {
		attach(t, b, fmt.Sprint("full", i), nil, nil)
	}
	ns, err := NewNetns()
	must(t, err)
	defer ns.Close()
	if _, err := b.Attach(ns, "too-many", nil, nil); snapshot.HintOf(err) == "" {
		t.Errorf("a full subnet gives %v, want an error with a hint", err)
	}
}

func TestSweep(t *testing.T) {
	b := testBridge(t, "10.205.0.0/24")
	attach(t, b, "dead", nil, nil)
	attach(t, b, "living", nil, nil)
	torn := filepath.Join(b.Dir, "10.205.0.77") // somebody died while he wrote it
	must(t, os.WriteFile(torn, nil, 0o600))
	freed, err := b.sweep(func(id string) bool { return id != "living" })
	must(t, err)
	if !slices.Equal(freed, []string{"dead"}) {
		t.Errorf("swept %v, want [dead]", freed)
	}
	if _, err := os.Lstat(torn); err == nil {
		t.Error("the lease of nobody is still there")
	}
	if _, err := netlink.LinkByName(b.Name); err != nil {
		t.Errorf("the bridge of a living container: %v", err)
	}
}

func TestBridgeRefusals(t *testing.T) {
	b := testBridge(t, "10.206.0.0/24")
	ns, err := NewNetns()
	must(t, err)
	defer ns.Close()
	taken := b
	taken.Name = "lo"
	if _, err := taken.Attach(ns, "x", nil, nil); snapshot.KindOf(err) != snapshot.KindExists {
		t.Errorf("an interface that is no bridge: %v", err)
	}
	v6 := b
	v6.Subnet = netip.MustParsePrefix("fd00::/64")
	if _, err := v6.Attach(ns, "x", nil, nil); snapshot.KindOf(err) != snapshot.KindInvalid {
		t.Errorf("a subnet of version 6: %v", err)
	}
	attach(t, b, "first", nil, nil)
	overlap := b
	overlap.Name, overlap.Dir = "sdtest1", b.Dir+"1"
	if _, err := overlap.Attach(ns, "x", nil, nil); snapshot.KindOf(err) != snapshot.KindExists {
		t.Errorf("a subnet that the host uses: %v", err)
	}
	// A failure half way leaves no lease: the name eth0 is taken.
	second := attach(t, b, "second", nil, nil)
	if _, err := b.Attach(second.ns, "half", nil, nil); err == nil {
		t.Error("attached twice")
	}
	l, err := openLeases(b.Dir, b.Subnet)
	must(t, err)
	defer l.Close()
	all, err := l.taken()
	must(t, err)
	if len(all) != 2 {
		t.Errorf("leases after a failure: %v", all)
	}
}

func TestNetns(t *testing.T) {
	ns, err := NewNetns()
	must(t, err)
	if err := sys.InNetns(ns.File(), func() error {
		lo, err := net.InterfaceByName("lo")
		if err == nil && lo.Flags&net.FlagUp == 0 {
			t.Error("lo is down")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	must(t, ns.Close())
	must(t, ns.Close())
	var self, host syscall.Stat_t
	must(t, syscall.Stat("/proc/thread-self/ns/net", &self))
	must(t, syscall.Stat("/proc/self/ns/net", &host))
	if self.Ino != host.Ino {
		t.Error("the thread stayed in another network namespace")
	}
}

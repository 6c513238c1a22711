package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// masquerade makes the table anew: what the subnet sends to elsewhere leaves with the host's address.
func masquerade(table string, subnet netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return noTables(err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: table}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	post := natChain(c, t, "postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	match := inPrefix(sourceAt, subnet, expr.CmpOpEq)
	match = append(match, inPrefix(targetAt, subnet, expr.CmpOpNeq)...)
	c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: append(match, &expr.Masq{})})
	if err := c.Flush(); err != nil {
		return noTables(err)
	}
	return nil
}

func noTables(err error) error {
	return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "set up address translation", Err: err,
		Hint: "the kernel needs nftables with nat and masquerade (CONFIG_NFT_NAT, CONFIG_NFT_MASQ); or use --network none or host"}
}

// dropTable deletes the table if it exists.
func dropTable(table string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: table})
	if err := c.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", table, err)
	}
	return nil
}

// redirect sets up, inside of ns, that own answers on the ports whose sockets are bound to one of the aliases, and that
// what such a socket sends out of the container carries own. What was set up for another address before goes.
func redirect(ns *Netns, own netip.Addr, s aliases) error {
	if len(s.v4) == 0 {
		return nil
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.f.Fd())))
	if err != nil {
		return noTables(err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "snapd-ctr"}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	pre := natChain(c, t, "prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	out := natChain(c, t, "output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	post := natChain(c, t, "postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, p := range s.turned {
		for _, chain := range []*nftables.Chain{pre, out} {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: toPort(own, p)})
		}
	}
	for _, a := range s.v4 {
		match := inPrefix(sourceAt, netip.PrefixFrom(a, 32), expr.CmpOpEq)
		match = append(match, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(eth0), 0)})
		c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: append(match, translate(expr.NATTypeSourceNAT, own)...)})
	}
	if err := c.Flush(); err != nil {
		return noTables(err)
	}
	return nil
}

func natChain(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
}

// Where an IPv4 header has its addresses.
const (
	sourceAt = 12
	targetAt = 16
)

// inPrefix compares the address at the offset with the prefix.
func inPrefix(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// toPort turns what is for own, at the listener's port, to the listener's address.
func toPort(own netip.Addr, p snapshot.Listener) []expr.Any {
	proto := byte(syscall.IPPROTO_TCP)
	if p.Proto == "udp" {
		proto = syscall.IPPROTO_UDP
	}
	match := inPrefix(targetAt, netip.PrefixFrom(own, 32), expr.CmpOpEq)
	match = append(match,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p.Port)})
	return append(match, translate(expr.NATTypeDestNAT, p.Address)...)
}

func translate(kind expr.NATType, to netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: kind, Family: syscall.AF_INET, RegAddrMin: 1},
	}
}

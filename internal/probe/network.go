package probe

import (
	"errors"
	"fmt"
	"os"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

func network() Probe {
	return try("veth-bridge", "containers with an address of their own",
		"load the modules bridge and veth, or use --network host or none", true, func() error {
			return inNetns(func(*os.File) error { return tryBridge() })
		})
}

// tryBridge makes a bridge with one end of a veth pair in it, in the network namespace of this thread.
func tryBridge() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}}
	if err := h.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe1"}, PeerName: "probe2"}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	if err := h.LinkSetMaster(veth, bridge); err != nil {
		return fmt.Errorf("put a veth into a bridge: %w", err)
	}
	return nil
}

func nftables() Probe {
	return try("nftables-nat", "connections of containers to the outside, and clones that answer on the original's address",
		"load the modules nf_tables and nft_masq (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ)", false, func() error {
			return inNetns(tryNAT)
		})
}

// tryNAT installs a rule that masquerades, in the network namespace ns.
func tryNAT(ns *os.File) error {
	c, err := nft.New(nft.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return err
	}
	table := c.AddTable(&nft.Table{Family: nft.TableFamilyIPv4, Name: "probe"})
	chain := c.AddChain(&nft.Chain{Name: "out", Table: table, Type: nft.ChainTypeNAT, Hooknum: nft.ChainHookPostrouting,
		Priority: nft.ChainPriorityNATSource})
	c.AddRule(&nft.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add a rule that masquerades: %w", err)
	}
	return nil
}

// inNetns calls f on a thread in a fresh network namespace, which ends with f.
func inNetns(f func(ns *os.File) error) error {
	return sys.InNewNetns(func(ns *os.File) error { return errors.Join(f(ns), ns.Close()) })
}

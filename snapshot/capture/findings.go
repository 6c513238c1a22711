package capture

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// addresses returns the distinct addresses of sockets, in order.
func addresses(ls []snapshot.Listener) []netip.Addr {
	var as []netip.Addr
	for _, l := range ls {
		if !slices.Contains(as, l.Address) {
			as = append(as, l.Address)
		}
	}
	return as
}

// guests counts the processes in the container's cgroup that are not below its init: programs that exec started.
func guests(pid int, cgroup string) int {
	pids, err := sandbox.OpenCgroup(cgroup).Pids()
	tree, err2 := proc.Children(pid)
	if cgroup == "" || err != nil || err2 != nil {
		return 0
	}
	n := 0
	for _, p := range slices.Compact(pids) {
		if p != pid && !slices.Contains(tree, p) {
			n++
		}
	}
	return n
}

// findings says what a clone will see that differs from the original.
func findings(c *snapshot.Config) []snapshot.Finding {
	var fs []snapshot.Finding
	if c.ClosedTCP > 0 {
		fs = append(fs, snapshot.Finding{Code: "tcp-closed",
			Detail: fmt.Sprintf("%d established TCP connections are closed in clones: their peers cannot be shared", c.ClosedTCP),
			Remedy: "the application reconnects, or its connections are closed before the snapshot"})
	}
	for _, a := range c.Network.Aliases {
		fs = append(fs, snapshot.Finding{Code: "bound-to-address",
			Detail: fmt.Sprintf("a socket is bound to %s: clones keep that address on lo, and what arrives for their own address is sent there", a),
			Remedy: "binding to 0.0.0.0 avoids the translation"})
	}
	for _, v := range c.Volumes {
		fs = append(fs, snapshot.Finding{Code: "shared-volume",
			Detail: fmt.Sprintf("the volume %s is not part of the snapshot: all clones and the original share it", v)})
	}
	if c.NetnsKey == "" {
		fs = append(fs, snapshot.Finding{Code: "host-network",
			Detail: "the container is on the host's network: a second clone cannot listen on the same ports",
			Remedy: "run the container with --network bridge"})
	}
	if c.Base.Dir != "" {
		fs = append(fs, snapshot.Finding{Code: "base-directory",
			Detail: fmt.Sprintf("the files beneath the container's own are those of %s, which must stay as it is", c.Base.Dir),
			Remedy: "export makes an archive that holds them"})
	}
	return fs
}

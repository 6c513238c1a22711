package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Netns is a network namespace held by a descriptor: it, and every interface in it, is gone once the descriptor is closed
// and no process is in it.
type Netns struct{ f *os.File }

// NewNetns makes a network namespace with nothing in it but lo, which is up. Multipath TCP is off in it: CRIU cannot
// capture such sockets, Go programs listen on them wherever they can, and without them fall back to TCP by themselves.
func NewNetns() (*Netns, error) {
	n := new(Netns)
	err := sys.InNewNetns(func(f *os.File) error {
		n.f = f
		return errors.Join(loopbackUp(), multipathDown())
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make network namespace: %w", err), n.Close())
	}
	return n, nil
}

// loopbackUp brings lo up in the calling thread's network namespace.
func loopbackUp() error {
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}) // lo is the first interface of all
}

// multipathDown turns multipath TCP off in the calling thread's network namespace, where the kernel has it.
func multipathDown() error {
	f, err := os.OpenFile("/proc/sys/net/mptcp/enabled", os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString("0")
	return errors.Join(err, f.Close())
}

// File returns the descriptor, which stays the Netns's own.
func (n *Netns) File() *os.File { return n.f }

// Path returns a path of the namespace that other processes can open while this one keeps it.
func (n *Netns) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.f.Fd()) }

// Close gives the namespace up. Closing twice is no error.
func (n *Netns) Close() error {
	if n == nil || n.f == nil {
		return nil
	}
	f := n.f
	n.f = nil
	return f.Close()
}

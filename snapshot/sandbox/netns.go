package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Netns is a network namespace held by a descriptor: it, and every interface in it, is gone once the descriptor is closed
// and no process is in it.
type Netns struct {
	f  *os.File
	rt *route // into the namespace, once it is needed
}

// NewNetns makes a network namespace with nothing in it but lo, which is up. Multipath TCP is off in it: CRIU cannot
// capture such sockets, Go programs listen on them wherever they can, and without them fall back to TCP by themselves.
func NewNetns() (*Netns, error) {
	n := new(Netns)
	err := sys.InNewNetns(func(f *os.File) (err error) {
		n.f = f
		if n.rt, err = openRoute(); err != nil {
			return err
		}
		return errors.Join(n.rt.do(linkUp(loopback)), multipathDown())
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make network namespace: %w", err), n.Close())
	}
	return n, nil
}

// loopback is the index of lo, which is the first interface of all.
const loopback = 1

// route returns the socket into the namespace, which stays the Netns's own.
func (n *Netns) route() (*route, error) {
	if n.rt != nil {
		return n.rt, nil
	}
	err := sys.InNetns(n.f, func() (err error) {
		n.rt, err = openRoute()
		return err
	})
	return n.rt, err
}

// multipathDown turns multipath TCP off in the calling thread's network namespace, where the kernel has it.
func multipathDown() error {
	err := store("/proc/sys/net/mptcp/enabled", "0", 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
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
	f, rt := n.f, n.rt
	n.f, n.rt = nil, nil
	return errors.Join(rt.Close(), f.Close())
}

package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// endConnections ends what is left of TCP connections when no process has a socket any more, and fails where there are
// sockets: somebody else has them.
func (n *Netns) endConnections() error {
	return sys.InNetns(n.f, func() error {
		left, err := countSockets()
		if err != nil {
			return err
		}
		if left.connections > 0 {
			if err := endAll(); err != nil {
				return fmt.Errorf("end its connections: %w", err)
			}
			if left, err = countSockets(); err != nil {
				return err
			}
		}
		if left.connections > 0 || left.open > 1 { // one is our own
			return fmt.Errorf("it has %d open sockets and %d connections", left.open-1, left.connections)
		}
		return nil
	})
}

// sockets says how many there are in a network namespace: open ones of any kind, and TCP connections, closed or not.
type sockets struct{ open, connections int }

// countSockets counts those of the calling thread's network namespace.
func countSockets() (s sockets, err error) {
	for _, name := range []string{"sockstat", "sockstat6"} {
		text, err := fetch("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) && name == "sockstat6" {
			break // no version 6
		}
		if err != nil {
			return s, err
		}
		one, err := parseSockets(text)
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
		s.open += one.open
		s.connections += one.connections
	}
	return s, nil
}

// parseSockets reads lines of a protocol's name and pairs of words and numbers.
func parseSockets(text string) (s sockets, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		for i := 1; i+1 < len(f); i += 2 {
			count, err := strconv.Atoi(f[i+1])
			if err != nil {
				return s, err
			}
			switch f[0] + f[i] {
			case "sockets:used":
				s.open = count
			case "TCP:inuse", "TCP6:inuse", "TCP:tw":
				s.connections += count
			}
		}
	}
	return s, nil
}

// Of sock_diag.h and inet_diag.h.
const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20
	sockDestroy      = 21
	sockIDLen        = 48 // a struct inet_diag_sockid
)

// endAll ends all TCP connections of the calling thread's network namespace.
func endAll() error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	r := &route{fd}
	defer r.Close()
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		var ends []*message
		err := r.ask(diagnose("connections", sockDiagByFamily, syscall.NLM_F_DUMP, family, make([]byte, sockIDLen)), func(a syscall.NetlinkMessage) error {
			if len(a.Data) < 4+sockIDLen {
				return syscall.EBADMSG
			}
			ends = append(ends, diagnose("end a connection", sockDestroy, 0, family, a.Data[4:4+sockIDLen]))
			return nil
		})
		if err != nil {
			return err
		}
		for _, m := range ends {
			if err := r.do(m); err != nil && !errors.Is(err, syscall.ENOENT) {
				return err
			}
		}
	}
	return nil
}

// diagnose is a message about TCP sockets in any state: a struct inet_diag_req_v2.
func diagnose(what string, kind, flags uint16, family byte, id []byte) *message {
	h := binary.NativeEndian.AppendUint32([]byte{family, syscall.IPPROTO_TCP, 0, 0}, ^uint32(0))
	return request(what, kind, flags, append(h, id...))
}

package sys

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Guard keeps userfaultfds open beyond the death of this process, in another process that does nothing else.
//
// The kernel closes the files of a process that dies before it tells its children. Without a guard the tasks whose
// memory the process served would, until the signal at their parent's death comes, take what is missing for zeros; with
// it they wait.
type Guard struct {
	mu      sync.Mutex
	control *os.File
}

// NewGuard returns a guard whose process runs GuardOthers at the other end of the socket.
func NewGuard(control *os.File) *Guard { return &Guard{control: control} }

// Kept is what holds a userfaultfd open.
type Kept struct{ in, out *os.File }

// Keep holds u open until the returned Kept is closed, or for some time after the death of this process. A userfaultfd
// that is kept and not served makes tasks wait: it must be closed as soon as u is.
func (g *Guard) Keep(u *Userfault) (*Kept, error) {
	in, out, err := SocketPair()
	if err != nil {
		return nil, err
	}
	// A descriptor that lies in a socket is open as long as somebody could receive it; we can take it out again.
	k := &Kept{in, out}
	if err = sendFile(in, u.f); err == nil {
		g.mu.Lock()
		err = sendFile(g.control, out)
		g.mu.Unlock()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard a userfaultfd: %w", err), k.Close())
	}
	return k, nil
}

// Close gives the userfaultfd up. Closing nil is no error.
func (k *Kept) Close() error {
	if k == nil {
		return nil
	}
	err := k.in.Close() // nothing comes any more: receiving ends
	for {
		f, rerr := ReceiveFile(k.out)
		if rerr != nil {
			break
		}
		f.Close()
	}
	return errors.Join(err, k.out.Close())
}

func sendFile(to, f *os.File) error {
	var err error
	control, cerr := f.SyscallConn()
	if cerr != nil {
		return cerr
	}
	cerr = control.Control(func(fd uintptr) {
		err = unix.Sendmsg(int(to.Fd()), []byte{0}, unix.UnixRights(int(fd)), nil, unix.MSG_NOSIGNAL)
	})
	return errors.Join(err, cerr)
}

// GuardOthers keeps what comes from the socket open until the process at its other end has died, and for the given time
// after that. It returns then.
func GuardOthers(control *os.File, linger time.Duration) error {
	var kept []*os.File
	for {
		polled := []unix.PollFd{{Fd: int32(control.Fd()), Events: unix.POLLIN}}
		for _, f := range kept {
			polled = append(polled, unix.PollFd{Fd: int32(f.Fd())}) // only whether the other end is closed
		}
		if _, err := unix.Poll(polled, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("poll: %w", err)
		}
		var on []*os.File
		for i, f := range kept {
			if polled[i+1].Revents == 0 {
				on = append(on, f)
				continue
			}
			// It was given up, or the process is dying and has closed this before the control socket.
			time.AfterFunc(linger, func() { f.Close() })
		}
		kept = on
		if polled[0].Revents == 0 {
			continue
		}
		f, err := ReceiveFile(control)
		if err != nil {
			time.Sleep(linger)
			return nil
		}
		kept = append(kept, f)
	}
}

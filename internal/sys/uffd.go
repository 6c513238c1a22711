package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Userfault is a userfaultfd: the memory of a process in which pages are missing until they are put there through it.
// Layouts and numbers are those of linux/userfaultfd.h; x/sys has none of them.
type Userfault struct {
	f       *os.File
	mu      sync.Mutex
	nothing []byte // a page that cannot be read; made when it is needed
}

// UserfaultKind says what a process did to memory that is served through a [Userfault].
type UserfaultKind uint8

// The kinds of event. The process waits in FORK, REMAP, REMOVE and UNMAP until the event has been read.
const (
	UserfaultMissing UserfaultKind = 0x12 // a page was touched that is not there
	UserfaultFork    UserfaultKind = 0x13 // the process forked; Child serves the child's memory
	UserfaultRemap   UserfaultKind = 0x14 // mremap moved [Start, End) to To
	UserfaultRemove  UserfaultKind = 0x15 // madvise threw the content of [Start, End) away
	UserfaultUnmap   UserfaultKind = 0x16 // [Start, End) is gone
)

// UserfaultEvent is one event.
type UserfaultEvent struct {
	Kind       UserfaultKind
	Start, End uint64 // Missing: Start is the address
	To         uint64
	Child      *Userfault
}

// What a copy can report. Other errors are the kernel's own.
var (
	ErrPagePresent   = errors.New("the page is there already")
	ErrAddressGone   = errors.New("nothing is served at the address")
	ErrMemoryChanged = errors.New("the memory is being changed: events come first")
	ErrProcessGone   = errors.New("the process is gone")
)

const (
	uffdioCopy     = 0xc028aa03
	uffdioZeropage = 0xc020aa04
	uffdioWake     = 0x8010aa02
	uffdMsgSize    = 32
)

// NewUserfault takes over a descriptor that was received from the process whose memory it serves. It must be in
// non-blocking mode.
func NewUserfault(f *os.File) *Userfault {
	return &Userfault{f: f}
}

// Close ends the service: pages still missing read as zeros from then on.
func (u *Userfault) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	err := UnmapFile(u.nothing)
	u.nothing = nil
	return errors.Join(err, u.f.Close())
}

// Events reads what has happened. When nothing has, it waits for at most the timeout; a negative one has no bound.
func (u *Userfault) Events(timeout time.Duration) ([]UserfaultEvent, error) {
	conn, err := u.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	if err := u.f.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	var buf [16 * uffdMsgSize]byte
	var n int
	var rerr error
	err = conn.Read(func(fd uintptr) bool {
		for {
			n, rerr = unix.Read(int(fd), buf[:])
			if !errors.Is(rerr, unix.EINTR) {
				break
			}
		}
		return !errors.Is(rerr, unix.EAGAIN) || timeout == 0
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), err == nil && errors.Is(rerr, unix.EAGAIN):
		return nil, nil
	case err != nil:
		return nil, err
	case rerr != nil:
		return nil, fmt.Errorf("read userfaultfd: %w", rerr)
	}
	var out []UserfaultEvent
	for b := buf[:n]; len(b) >= uffdMsgSize; b = b[uffdMsgSize:] {
		out = append(out, decodeUserfault(b))
	}
	return out, nil
}

func decodeUserfault(b []byte) UserfaultEvent {
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8+8*i:]) }
	e := UserfaultEvent{Kind: UserfaultKind(b[0])}
	switch e.Kind {
	case UserfaultMissing:
		e.Start = word(1)
	case UserfaultFork:
		fd := int(binary.NativeEndian.Uint32(b[8:]))
		_ = unix.SetNonblock(fd, true)
		unix.CloseOnExec(fd)
		e.Child = NewUserfault(os.NewFile(uintptr(fd), "userfaultfd"))
	case UserfaultRemap:
		e.Start, e.To, e.End = word(0), word(1), word(0)+word(2)
	case UserfaultRemove, UserfaultUnmap:
		e.Start, e.End = word(0), word(1)
	}
	return e
}

// Copy puts src at dst, both of whole pages, and wakes who waits there. It returns how many bytes were put, which may be
// fewer, next to the reason.
func (u *Userfault) Copy(dst uint64, src []byte) (int, error) {
	arg := struct {
		dst, src, len, mode uint64
		copied              int64
	}{dst, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(src)))), uint64(len(src)), 0, 0}
	err := u.ioctl(uffdioCopy, unsafe.Pointer(&arg))
	runtime.KeepAlive(src)
	return int(max(arg.copied, 0)), err
}

// Serves says whether memory is served at the address of a page, be it there or not, and puts nothing.
func (u *Userfault) Serves(addr uint64) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.nothing == nil {
		b, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return false, fmt.Errorf("map a page: %w", err)
		}
		u.nothing = b
	}
	// The kernel looks for the place before it finds that there is nothing to be copied.
	switch _, err := u.Copy(addr, u.nothing); {
	case errors.Is(err, unix.EFAULT), err == nil:
		return true, nil
	case errors.Is(err, ErrAddressGone):
		return false, nil
	default:
		return false, err
	}
}

// Zero puts zeros at [dst, dst+n).
func (u *Userfault) Zero(dst, n uint64) error {
	arg := struct {
		start, len, mode uint64
		zeroed           int64
	}{start: dst, len: n}
	return u.ioctl(uffdioZeropage, unsafe.Pointer(&arg))
}

// Changing says whether the process is in the middle of a change of its memory whose event has not been read, or was
// read only just now. Copy and Zero put nothing then.
func (u *Userfault) Changing() (bool, error) {
	// The kernel looks for changes first, and then finds the range empty.
	err := u.Zero(0, 0)
	switch {
	case errors.Is(err, ErrMemoryChanged):
		return true, nil
	case errors.Is(err, unix.EINVAL):
		return false, nil
	}
	return false, err
}

// Wake lets threads that wait for pages of [start, start+n) try again.
func (u *Userfault) Wake(start, n uint64) error {
	arg := [2]uint64{start, n}
	return u.ioctl(uffdioWake, unsafe.Pointer(&arg))
}

func (u *Userfault) ioctl(request uintptr, arg unsafe.Pointer) error {
	conn, err := u.f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
	})
	if err != nil {
		return err
	}
	switch errno {
	case 0:
		return nil
	case unix.EEXIST:
		return ErrPagePresent
	case unix.ENOENT:
		return ErrAddressGone
	case unix.EAGAIN, unix.EINTR:
		return ErrMemoryChanged
	case unix.ESRCH, unix.ENOSPC:
		return ErrProcessGone
	default:
		return fmt.Errorf("userfaultfd ioctl %#x: %w", request, errno)
	}
}

// MapFile maps a whole file for reading, with its page table filled where the file is in memory.
func MapFile(f *os.File) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() == 0 {
		return nil, nil
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return b, nil
}

// UnmapFile undoes MapFile.
func UnmapFile(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	return unix.Munmap(b)
}

package pager

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

const (
	// socketName is where CRIU looks for its pager, in the work directory of a restore.
	socketName = "lazy-pages.socket"
	// restored is what CRIU sends once every task is restored ("FTSR" in memory).
	restored = 0x52535446
)

// Pager serves the clones of one snapshot.
type Pager struct {
	image *Image
	guard *sys.Guard // may be nil
	// slots bounds how many clones are filled at the same time, so that faults find a processor.
	slots chan struct{}
	// busy counts clones that are being made: the background fill makes way for them. lately is when the last one was
	// done, in Unix nanoseconds.
	busy   atomic.Int32
	lately atomic.Int64
}

// New returns a pager for the image. Without a guard, tasks that still miss memory when this process dies may see zeros
// for a moment before they are killed.
func New(im *Image, guard *sys.Guard) *Pager {
	return &Pager{image: im, guard: guard, slots: make(chan struct{}, max(1, runtime.NumCPU()-1))}
}

// Session serves one restore and then the memory of its tasks.
type Session struct {
	pager    *Pager
	listener *net.UnixListener
	filled   chan struct{}
	fill     sync.Once     // closes filled
	ended    chan struct{} // closed when the session is
	doubt    sync.Once     // closes unsure
	unsure   chan struct{}
	group    sync.WaitGroup
	finished atomic.Int64 // when CRIU said that all is restored, in Unix nanoseconds; 0: not yet
	hurry    atomic.Bool

	mu     sync.Mutex
	spaces map[*space]bool
	conn   *net.UnixConn
	err    error
	closed bool
}

// Serve begins to listen for the restore whose work directory is given. The caller closes the session when the clone has
// ended, or when the restore has failed.
func (p *Pager) Serve(work string) (*Session, error) {
	dir, err := os.Open(work)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// The path may be longer than a socket address can hold; its directory's descriptor never is.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for CRIU in %s: %w", work, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(filepath.Join(work, socketName), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	s := &Session{pager: p, listener: l, filled: make(chan struct{}), ended: make(chan struct{}), unsure: make(chan struct{}), spaces: make(map[*space]bool)}
	s.group.Go(s.accept)
	go func() {
		s.group.Wait()
		s.fill.Do(func() { close(s.filled) })
	}()
	return s, nil
}

// Filled is closed when nothing is missing any more in any task, or serving has failed; then Err says so.
func (s *Session) Filled() <-chan struct{} { return s.filled }

// Err returns why memory could not be served. A clone whose session has an error must not go on.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Doubtful is closed when it can no longer be told what some memory must hold, because threads changed the same
// addresses at the same time. The tasks may go on: when one touches that memory, the session fails. Until it is gone,
// nothing is ever filled completely.
func (s *Session) Doubtful() <-chan struct{} { return s.unsure }

func (s *Session) doubtful() { s.doubt.Do(func() { close(s.unsure) }) }

// Hurry fills without regard to others: somebody waits for the memory to be complete.
func (s *Session) Hurry() { s.hurry.Store(true) }

// Close ends the session. Tasks that still miss memory must be gone.
func (s *Session) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.ended)
	}
	s.listener.Close()
	if s.conn != nil {
		s.conn.Close()
	}
	for sp := range s.spaces {
		sp.u.Close()
	}
	s.mu.Unlock()
	s.group.Wait()
	return nil
}

// accept talks to CRIU: a task's id and its userfaultfd for each task, then the news that all is restored.
func (s *Session) accept() {
	conn, err := s.listener.AcceptUnix()
	s.listener.Close()
	if err != nil {
		s.fail(fmt.Errorf("CRIU did not connect: %w", err))
		return
	}
	defer conn.Close()
	s.mu.Lock()
	s.conn = conn
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return
	}
	if err := s.converse(conn); err != nil {
		s.fail(err)
	}
}

func (s *Session) converse(conn *net.UnixConn) error {
	var word [4]byte
	for {
		if _, err := io.ReadFull(conn, word[:]); err != nil {
			return fmt.Errorf("CRIU went away before the restore was complete: %w", err)
		}
		n := binary.NativeEndian.Uint32(word[:])
		if n == restored {
			s.finished.Store(time.Now().UnixNano())
			return nil
		}
		task := int(int32(n))
		if task < 0 {
			continue // a zombie has no memory
		}
		f, err := receive(conn)
		if err != nil {
			return fmt.Errorf("userfaultfd of task %d: %w", task, err)
		}
		s.run(&space{session: s, task: task, u: sys.NewUserfault(f),
			owed: owed{missing: slices.Clone(s.pager.image.tasks[task])}, working: s.pager.image.workingSet(task)})
	}
}

func receive(conn *net.UnixConn) (*os.File, error) {
	var b [1]byte
	oob := make([]byte, 64)
	_, n, _, _, err := conn.ReadMsgUnix(b[:], oob)
	if err != nil {
		return nil, err
	}
	return sys.PassedFile(oob[:n])
}

// run serves an address space in a goroutine of its own.
func (s *Session) run(sp *space) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		sp.u.Close()
		return
	}
	s.spaces[sp] = true
	s.group.Go(func() {
		defer sp.close()
		kept, err := s.pager.keep(sp.u)
		if err == nil {
			err = sp.serve()
		}
		if err != nil {
			s.fail(err)
			<-s.ended // until then tasks wait for what they miss: without a server it would be zeros to them
		}
		if err := kept.Close(); err != nil {
			s.fail(err)
		}
		s.mu.Lock()
		delete(s.spaces, sp)
		s.mu.Unlock()
	})
}

// keep has the guard hold a userfaultfd, so that it outlives this process.
func (p *Pager) keep(u *sys.Userfault) (*sys.Kept, error) {
	if p.guard == nil {
		return nil, nil
	}
	return p.guard.Keep(u)
}

// fail keeps the first error. Errors after Close are its own doing.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.err == nil && !errors.Is(err, os.ErrClosed) {
		s.err = fmt.Errorf("serve memory: %w", err)
		s.fill.Do(func() { close(s.filled) })
	}
}

// isRestored says whether CRIU has restored all tasks. Before that, memory may not be registered yet.
func (s *Session) isRestored() bool { return s.finished.Load() != 0 }

// Busy says that a clone is being made, until the returned function is called.
func (p *Pager) Busy() (done func()) {
	p.busy.Add(1)
	return func() {
		p.lately.Store(time.Now().UnixNano())
		p.busy.Add(-1)
	}
}

// idle says whether no clone is being made, nor has been until just now: in a burst the next one comes at once.
func (p *Pager) idle() bool {
	return p.busy.Load() == 0 && time.Since(time.Unix(0, p.lately.Load())) > patience
}

// mayFill says whether the background fill may go on: while other clones are being restored it makes way for them, but
// not for ever.
func (s *Session) mayFill() bool {
	return s.hurry.Load() || s.pager.idle() || s.sinceRestored() > yielding
}

// mayPrefetch says whether the working set may come before it is touched: not while another clone is being made.
func (s *Session) mayPrefetch() bool {
	return s.hurry.Load() || s.pager.busy.Load() == 0 || s.sinceRestored() > yielding
}

// isEarly says whether the clone is in its first moments.
func (s *Session) isEarly() bool { return s.sinceRestored() < early }

// sinceRestored is how long ago all tasks were restored, 0 while they are not.
func (s *Session) sinceRestored() time.Duration {
	t := s.finished.Load()
	if t == 0 {
		return 0
	}
	return time.Since(time.Unix(0, t))
}

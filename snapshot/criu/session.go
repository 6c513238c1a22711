package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

const (
	messageMax = 64 << 10
	exitWait   = 10 * time.Second
)

// errDied means that criu ended without an answer.
var errDied = errors.New("criu died")

// session is one criu process in its worker mode and the socket to it.
type session struct {
	conn *net.UnixConn
	cmd  *exec.Cmd
	done chan struct{} // closed once criu has been reaped
	once sync.Once
}

// message is one answer of criu, and the descriptor that came with it, if one did.
type message struct {
	resp *rpc.CriuResp
	file *os.File
}

func (m message) drop() {
	if m.file != nil {
		m.file.Close()
	}
}

// open starts criu. files become its descriptors 4, 5, …. If pidFile is not empty, criu's pid is written there.
func (t Tool) open(env []string, files []*os.File, pidFile string) (*session, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	s := &session{conn: ours, done: make(chan struct{})}
	s.cmd = exec.Command(t.Path, "--no-default-config", "swrk", "3")
	s.cmd.Env = environment(env)
	s.cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	// A session of its own: an interrupt from the keyboard is ours to handle, and must not end criu half way; and what
	// criu forked is known by it when criu is gone.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := t.start(s.cmd); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start %s: %w", t.Path, err)
	}
	go func() {
		_ = s.cmd.Wait() // its answer says more than its status
		close(s.done)
	}()
	if pidFile != "" {
		if err := os.WriteFile(pidFile, []byte(strconv.Itoa(s.pid())), 0o600); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *session) pid() int { return s.cmd.Process.Pid }

func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	a, b := os.NewFile(uintptr(fds[0]), "criu"), os.NewFile(uintptr(fds[1]), "criu")
	defer a.Close()
	c, err := net.FileConn(a) // duplicates the descriptor
	if err != nil {
		b.Close()
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return c.(*net.UnixConn), b, nil
}

func (s *session) send(req *rpc.CriuReq) error {
	b, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode a request to criu: %w", err)
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(exitWait))
	if _, err := s.conn.Write(b); err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			return errDied
		}
		return fmt.Errorf("send to criu: %w", err)
	}
	return nil
}

// answer replies to a notification.
func (s *session) answer(ok bool) error {
	return s.send(&rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: new(ok)})
}

// recv waits for the next message. It returns the context's cause when ctx ends first, and errDied when criu does.
func (s *session) recv(ctx context.Context) (message, error) {
	if err := context.Cause(ctx); err != nil {
		return message{}, err
	}
	_ = s.conn.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	read := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		// Tasks under restoration hold the socket too, so criu's death need not close it.
		select {
		case <-s.done:
			_ = s.conn.SetReadDeadline(time.Unix(1, 0))
		case <-read:
		}
	})
	m, err := s.read()
	close(read)
	watch.Wait()
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		if cause := context.Cause(ctx); cause != nil {
			return message{}, cause
		}
		return message{}, errDied
	}
	return m, err
}

func (s *session) read() (message, error) {
	buf, oob := make([]byte, messageMax), make([]byte, 256)
	n, on, flags, _, err := s.conn.ReadMsgUnix(buf, oob)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.dead() {
		n, on, flags, err = s.lastWords(buf, oob)
	}
	if err != nil {
		return message{}, err
	}
	var file *os.File
	if on > 0 {
		if file, err = sys.PassedFile(oob[:on]); err != nil {
			return message{}, fmt.Errorf("message of criu: %w", err)
		}
	}
	m := message{resp: &rpc.CriuResp{}, file: file}
	if flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		m.drop()
		return message{}, fmt.Errorf("criu sent a message longer than %d bytes", messageMax)
	}
	if err := proto.Unmarshal(buf[:n], m.resp); err != nil {
		m.drop()
		return message{}, fmt.Errorf("decode a message of criu: %w", err)
	}
	return m, nil
}

// dead says whether criu has been reaped.
func (s *session) dead() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// lastWords reads what is in the socket and waits for nothing: all that criu has said before it ended is there, however long
// ago that was.
func (s *session) lastWords(buf, oob []byte) (n, on, flags int, err error) {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return 0, 0, 0, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		n, on, flags, _, failed = syscall.Recvmsg(int(fd), buf, oob, syscall.MSG_DONTWAIT|syscall.MSG_CMSG_CLOEXEC)
	})
	if err = errors.Join(err, failed); errors.Is(err, syscall.EAGAIN) || err == nil && n == 0 {
		err = io.EOF
	}
	return n, on, flags, err
}

// close closes the socket, which ends criu unless it is ending anyway, and reaps it; after a while it kills.
func (s *session) close() {
	s.once.Do(func() { s.conn.Close() })
	select {
	case <-s.done:
	case <-time.After(exitWait):
		s.kill()
	}
}

// kill ends criu at once and reaps it.
func (s *session) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
	s.once.Do(func() { s.conn.Close() })
}

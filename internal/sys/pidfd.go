package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process held by a pidfd: signals sent through it never reach another process that was given the same id.
// It needs Linux 5.10.
type Process struct {
	Pid int
	f   *os.File
}

// OpenProcess opens a process. Its error is ESRCH when there is none.
func OpenProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return &Process{Pid: pid, f: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid))}, nil
}

// Exited returns once the process has ended, or with ctx's error. It reaps nothing and holds no thread while it waits.
func (p *Process) Exited(ctx context.Context) error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.f.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			_ = p.f.SetReadDeadline(time.Time{})
		}
	}()
	var poll error
	err = conn.Read(func(fd uintptr) bool {
		var n int
		n, poll = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || poll != nil && !errors.Is(poll, unix.EINTR)
	})
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return errors.Join(err, poll)
}

// reapLimit is how long a child that has ended may still be held by a tracer, which is the first to hear of its end.
const reapLimit = 5 * time.Second

// Reap collects the status of a child that has exited: its exit code, or 128 plus the signal that ended it. A child that a
// tracer still holds is waited for, for seconds at most; EAGAIN says that it runs, or is held yet.
func (p *Process) Reap() (int, error) {
	for deadline := time.Now().Add(reapLimit); ; {
		// The id cannot have gone to another process: the kernel keeps it until the child is reaped, here and only here.
		var status unix.WaitStatus
		pid, err := unix.Wait4(p.Pid, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for %d: %w", p.Pid, err)
		case pid != 0:
			return ExitStatus(syscall.WaitStatus(status)), nil
		case !p.ended() || time.Now().After(deadline):
			return 0, fmt.Errorf("wait for %d: %w", p.Pid, unix.EAGAIN)
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

// ended says whether the process has ended, reaped or not.
func (p *Process) ended() bool {
	var n int
	err := p.control(func(fd int) (err error) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err
	})
	return err == nil && n > 0
}

// ExitStatus is a process's status as a shell sees it: its exit code, or 128 plus the signal that ended it.
func ExitStatus(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// Signal sends a signal. Its error is ESRCH when the process has been reaped.
func (p *Process) Signal(s syscall.Signal) error {
	return p.control(func(fd int) error {
		if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil {
			return fmt.Errorf("signal %d to %d: %w", s, p.Pid, err)
		}
		return nil
	})
}

// Close gives the descriptor back; the process is left alone.
func (p *Process) Close() error { return p.f.Close() }

func (p *Process) control(f func(fd int) error) error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

package template

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// conversation is the engine's end of a stub's socket.
type conversation struct{ c *net.UnixConn }

func newConversation() (conversation, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return conversation{}, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "template"), os.NewFile(uintptr(fds[1]), "template")
	defer ours.Close()
	c, err := net.FileConn(ours) // of a copy of the descriptor
	if err != nil {
		theirs.Close()
		return conversation{}, nil, err
	}
	return conversation{c.(*net.UnixConn)}, theirs, nil
}

// tell sends a message with descriptors. The stub always listens, so this does not wait.
func (c conversation) tell(b []byte, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err := c.c.WriteMsgUnix(b, syscall.UnixRights(fds...), nil)
	return err
}

// hear receives a message. The stub's death is an error.
func (c conversation) hear(ctx context.Context, limit time.Duration) ([]byte, error) {
	return receive(ctx, limit, c.c, 1024)
}

type deadlineReader interface {
	Read([]byte) (int, error)
	SetReadDeadline(time.Time) error
}

var errSilent = errors.New("it ended without a word")

// receive reads one message from a socket or a pipe, for limit at most.
func receive(ctx context.Context, limit time.Duration, from deadlineReader, size int) ([]byte, error) {
	if err := from.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = from.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, size)
	n, err := from.Read(b)
	switch {
	case err == nil && n > 0:
		return b[:n], nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("no answer in %s", limit)
	default:
		return nil, errSilent
	}
}

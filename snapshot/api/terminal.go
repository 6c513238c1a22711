package api

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// execTerminal runs a program on a terminal of its own, in the container, and joins it to the caller's, which the caller
// has made raw.
func execTerminal(ctx context.Context, client *shim.Client, id string, q shim.ExecRequest, r ExecRequest) (int, error) {
	if r.Stdin == nil || !term.IsTerminal(int(r.Stdin.Fd())) {
		return 0, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "exec", On: snapshot.ShortID(id),
			Err: errors.New("the input is not a terminal"), Hint: "leave out -t"}
	}
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		return 0, err
	}
	defer ours.Close()
	joined := make(chan error, 1)
	go func() {
		master, err := sys.ReceiveFile(ours)
		if err != nil {
			joined <- err
			return
		}
		defer master.Close()
		join(ctx, master, r.Stdin, r.Stdout)
		joined <- nil
	}()
	status, err := client.Exec(ctx, id, q, []*os.File{theirs}, nil)
	theirs.Close()
	if err != nil {
		return status, err
	}
	// The program has ended; what it wrote last is still on its way. A process that it left behind may hold the terminal.
	select {
	case err := <-joined:
		return status, err
	case <-time.After(lastWords):
		return status, nil
	}
}

// lastWords is how long the output of a program that has ended is waited for.
const lastWords = 2 * time.Second

// join copies between a terminal's master and the caller's terminal, and passes changes of its size on. It returns when
// nobody has the terminal open any more.
func join(ctx context.Context, master *os.File, in, out *os.File) {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	_ = sys.CopyWindowSize(in, master)
	go func() { _, _ = io.Copy(master, in) }()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(out, master)
		close(done)
	}()
	for {
		select {
		case <-resized:
			_ = sys.CopyWindowSize(in, master)
		case <-done:
			return
		case <-ctx.Done():
			return
		}
	}
}

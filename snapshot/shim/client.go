package shim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const (
	dialTimeout = 20 * time.Second
	// undoTimeout is how long a cancelled request waits for the shim to say that it is undone.
	undoTimeout = 10 * time.Second
)

// Client talks to one shim. Its methods may be called concurrently; each request has a connection of its own. When a
// request's context ends, the shim cancels and undoes it; the method returns when that is done, or after 10 seconds.
type Client struct {
	socket string
	pid    int
}

// Dial finds the shim that listens on a socket. The error is of kind unreachable when nobody answers there.
func Dial(ctx context.Context, socket string) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c := &Client{socket: socket}
	pid, err := c.Ping(ctx)
	if err != nil {
		return nil, err
	}
	c.pid = pid
	return c, nil
}

// Pid is the shim's process id.
func (c *Client) Pid() int { return c.pid }

// Socket is the path of the shim's socket.
func (c *Client) Socket() string { return c.socket }

// Ping asks the shim for its process id.
func (c *Client) Ping(ctx context.Context) (int, error) {
	r, err := c.ask(ctx, Request{Op: OpPing}, nil, nil)
	return r.Pid, err
}

// Start runs a container whose directory is prepared, and returns its record once its program runs. A program that could
// not be started is a [*ProgramError].
func (c *Client) Start(ctx context.Context, id string, r StartRequest) (snapshot.Container, error) {
	record, _, err := c.record(ctx, Request{Op: OpStart, ID: id, Start: &r})
	return record, err
}

// Clone restores a snapshot into a container whose directory is prepared.
func (c *Client) Clone(ctx context.Context, id string, r CloneRequest) (snapshot.Container, []snapshot.Phase, error) {
	return c.record(ctx, Request{Op: OpClone, ID: id, Clone: &r})
}

func (c *Client) record(ctx context.Context, q Request) (snapshot.Container, []snapshot.Phase, error) {
	var record snapshot.Container
	r, err := c.ask(ctx, q, nil, nil)
	if err != nil {
		return record, nil, blamed(r, err)
	}
	if err := json.Unmarshal(r.Value, &record); err != nil {
		return record, nil, fmt.Errorf("answer of the shim: %w", err)
	}
	return record, r.Phase, nil
}

// Exec runs a program in a container and returns its exit status. The files are its stdin, stdout and stderr; with r.TTY
// there is one, a unix socket on which the terminal's master arrives. started, if not nil, is called with the program's
// process id on the host. A program that could not be started is a [*ProgramError], with its status next to it.
func (c *Client) Exec(ctx context.Context, id string, r ExecRequest, files []*os.File, started func(pid int)) (int, error) {
	reply, err := c.ask(ctx, Request{Op: OpExec, ID: id, Exec: &r}, files, started)
	return exit(reply, blamed(reply, err))
}

// blamed is the error of a request, or the ProgramError that it stands for.
func blamed(r Reply, err error) error {
	if err != nil && r.Exit != nil && (*r.Exit == StatusNotExecutable || *r.Exit == StatusNotFound) {
		return &ProgramError{Status: *r.Exit, Err: err}
	}
	return err
}

// Wait returns a container's exit status once it has exited.
func (c *Client) Wait(ctx context.Context, id string) (int, error) {
	return exit(c.ask(ctx, Request{Op: OpWait, ID: id}, nil, nil))
}

// Settle returns when all memory of a container is its own.
func (c *Client) Settle(ctx context.Context, id string) error {
	_, err := c.ask(ctx, Request{Op: OpSettle, ID: id}, nil, nil)
	return err
}

// Delete deletes an exited container and its files.
func (c *Client) Delete(ctx context.Context, id string, force bool) error {
	_, err := c.ask(ctx, Request{Op: OpDelete, ID: id, Force: force}, nil, nil)
	return err
}

// BuildTemplate builds the snapshot's template unless it is there, which fresh says, and keeps it until
// [Client.RemoveTemplate]. r is what a clone would be made of.
func (c *Client) BuildTemplate(ctx context.Context, r CloneRequest) (t snapshot.Template, fresh bool, err error) {
	reply, err := c.ask(ctx, Request{Op: OpBuildTemplate, ID: r.Record.Snapshot, Clone: &r}, nil, nil)
	if err == nil && len(reply.Templates) != 1 {
		err = fmt.Errorf("the shim's answer has %d templates", len(reply.Templates))
	}
	if err != nil {
		return t, false, err
	}
	return reply.Templates[0], reply.Fresh, nil
}

// Templates lists the templates of the shim that listens on a socket. The error is of kind unreachable when nobody answers
// there. A look at a shim does not keep it from ending.
func Templates(ctx context.Context, socket string) ([]snapshot.Template, error) {
	c := &Client{socket: socket}
	reply, err := c.ask(ctx, Request{Op: OpTemplates}, nil, nil)
	return reply.Templates, err
}

// RemoveTemplate ends the template of a snapshot. Its clones live on.
func (c *Client) RemoveTemplate(ctx context.Context, snap string) error {
	_, err := c.ask(ctx, Request{Op: OpRemoveTemplate, ID: snap}, nil, nil)
	return err
}

func exit(r Reply, err error) (int, error) {
	switch {
	case r.Exit != nil:
		return *r.Exit, err
	case err == nil:
		err = errors.New("the shim's answer has no exit status")
	}
	return -1, err
}

// ask sends one request and returns the last line of the answer. Lines before it are news of a started program.
func (c *Client) ask(ctx context.Context, q Request, files []*os.File, started func(pid int)) (Reply, error) {
	q.Version = ProtocolVersion
	conn, err := dial(ctx, c.socket)
	if err != nil {
		return Reply{}, c.unreachable(ctx, q, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Now().Add(undoTimeout))
		_ = conn.CloseWrite()
	})
	defer stop()
	// A shim that refuses a request may answer and hang up before it has taken all of it: the answer says more.
	sent := writeLine(conn, q, files)
	lines := json.NewDecoder(conn)
	for {
		var r Reply
		if err := lines.Decode(&r); err != nil {
			return Reply{}, c.unreachable(ctx, q, cmp.Or(sent, fmt.Errorf("it went away before it answered: %w", err)))
		}
		switch {
		case r.Error != nil && ctx.Err() != nil:
			return r, fmt.Errorf("%s %s: %w", q.Op, snapshot.ShortID(q.ID), context.Cause(ctx))
		case r.Error != nil:
			return r, r.Error.asError()
		case r.Done:
			return r, nil
		case r.Pid != 0 && started != nil:
			started(r.Pid)
		}
	}
}

func (c *Client) unreachable(ctx context.Context, q Request, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", q.Op, snapshot.ShortID(q.ID), context.Cause(ctx))
	}
	return &snapshot.Error{Kind: snapshot.KindUnreachable, Op: "ask shim", On: c.socket, Err: err,
		Hint: "the container's shim is gone or stuck; `snapd-ctr fsck --repair` clears away what it left"}
}

// dial connects to a unix socket. It names the socket by its directory's descriptor, because the path itself may be
// longer than an address can hold.
func dial(ctx context.Context, socket string) (*net.UnixConn, error) {
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", throughDir(dir, socket))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

func throughDir(dir *os.File, socket string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket))
}

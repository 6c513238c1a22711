package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// LingerVariable names the environment variable that says how long a shim with nothing to do waits for another request,
// as a Go duration; 10 seconds where it is not set.
const LingerVariable = "SNAPD_CTR_SHIM_LINGER"

const (
	defaultLinger = 10 * time.Second
	lineTimeout   = 10 * time.Second // for a client to send its request, or to take a line of the answer
)

// Handler does what requests ask for. Its methods are called concurrently. A context that ends means that the client is
// gone: what was half made is undone before the method returns.
type Handler interface {
	Start(ctx context.Context, id string, r StartRequest) (snapshot.Container, error)
	Clone(ctx context.Context, id string, r CloneRequest) (snapshot.Container, []snapshot.Phase, error)
	// Exec runs a program to its end. The files belong to the caller.
	Exec(ctx context.Context, id string, r ExecRequest, files []*os.File, started func(pid int)) (int, error)
	Wait(ctx context.Context, id string) (int, error)
	Settle(ctx context.Context, id string) error
	// Delete deletes an exited container and its files; with force one that runs, which is killed.
	Delete(ctx context.Context, id string, force bool) error
	// BuildTemplate builds the snapshot's template and pins it; fresh says that it was not there before.
	BuildTemplate(ctx context.Context, r CloneRequest) (t snapshot.Template, fresh bool, err error)
	Templates(ctx context.Context) ([]snapshot.Template, error)
	RemoveTemplate(ctx context.Context, snap string) error
	// Idle says whether the shim holds nothing that would be lost with it.
	Idle() bool
}

// retirer is a listener that can be given up for good, unless a client is about to use it.
type retirer interface{ Retire() bool }

// Serve answers requests until ctx ends, or until h has been idle and nobody connected for the linger time. It returns
// once all requests have been answered. Connections of users other than root and our own are closed.
func Serve(ctx context.Context, l net.Listener, h Handler, log *slog.Logger) error {
	linger, err := lingerTime()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{h: h, log: log, last: time.Now()}
	defer s.requests.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	s.requests.Go(func() { s.endWhenIdle(ctx, l, linger) })
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		conn, ok := c.(*net.UnixConn)
		if !ok || !trusted(conn) {
			log.Warn("connection refused: not root and not our own user")
			c.Close()
			continue
		}
		s.begin()
		s.requests.Go(func() {
			op := s.serve(ctx, conn)
			conn.Close()
			s.end(op)
		})
	}
}

func lingerTime() (time.Duration, error) {
	v := os.Getenv(LingerVariable)
	if v == "" {
		return defaultLinger, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s=%q is not a duration above zero", LingerVariable, v)
	}
	return d, nil
}

type server struct {
	h        Handler
	log      *slog.Logger
	requests sync.WaitGroup

	mu   sync.Mutex
	open int       // connections
	last time.Time // when something was last going on
}

func (s *server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
}

// end ends a connection. A look at the templates is no use of the shim: it ends when it would have ended without.
func (s *server) end(op Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if op != OpTemplates {
		s.last = time.Now()
	}
}

// restedFor says for how long nothing has been going on.
func (s *server) restedFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open > 0 || !s.h.Idle() {
		s.last = time.Now()
	}
	return time.Since(s.last)
}

// endWhenIdle closes the listener when the server has rested for long enough. It looks a few times in each linger time: a
// container's end is no request, so nothing else would tell.
func (s *server) endWhenIdle(ctx context.Context, l net.Listener, linger time.Duration) {
	tick := time.NewTicker(max(linger/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.restedFor() < linger {
			continue
		}
		if r, ok := l.(retirer); ok && !r.Retire() {
			continue
		}
		l.Close()
		return
	}
}

// trusted says whether the other end belongs to root or to our own user.
func trusted(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	_ = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return ok
}

// serve answers the one request of a connection, and returns what it asked for.
func (s *server) serve(ctx context.Context, c *net.UnixConn) Op {
	_ = c.SetReadDeadline(time.Now().Add(lineTimeout))
	line, files, err := readLine(c)
	arrived := time.Now()
	defer closeAll(files)
	var q Request
	if err == nil {
		err = json.Unmarshal(line, &q)
	}
	if q.Clone != nil {
		q.Clone.Arrived = arrived
	}
	reply := Reply{Done: true}
	if err != nil {
		reply.Error = &Failure{Kind: snapshot.KindInvalid, Op: "read request", Message: err.Error()}
	} else {
		_ = c.SetReadDeadline(time.Time{})
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go awaitHangup(c, cancel)
		reply = s.answer(ctx, c, q, files)
		reply.Done = true
	}
	if err := s.send(c, reply); err != nil {
		s.log.Debug("answer not taken", "op", q.Op, "container", q.ID, "error", err)
	}
	return q.Op
}

// awaitHangup cancels when the client is gone. A client has nothing to say after its request.
func awaitHangup(c *net.UnixConn, cancel context.CancelFunc) {
	defer cancel()
	var b [64]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
	}
}

func (s *server) send(c *net.UnixConn, r Reply) error {
	_ = c.SetWriteDeadline(time.Now().Add(lineTimeout))
	return writeLine(c, r, nil)
}

// answer does the request. A panic of the handler becomes an error: the containers of this shim must outlive it.
func (s *server) answer(ctx context.Context, c *net.UnixConn, q Request, files []*os.File) (r Reply) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic", "op", q.Op, "container", q.ID, "panic", p, "stack", string(debug.Stack()))
			r = Reply{Error: failureOf(fmt.Errorf("internal error: %v", p), q.Op, q.ID)}
		}
	}()
	if q.Version != ProtocolVersion {
		return Reply{Error: &Failure{Kind: snapshot.KindIncompatible, Op: string(q.Op), On: snapshot.ShortID(q.ID),
			Message: fmt.Sprintf("the shim speaks version %d of the protocol, not %d", ProtocolVersion, q.Version),
			Hint:    "the container was started by another version of snapd-ctr; use that one, or stop the container with a signal"}}
	}
	r, err := s.dispatch(ctx, c, q, files)
	if err != nil {
		r.Error = failureOf(err, q.Op, q.ID)
		level := slog.LevelWarn
		if requestsFault(r, err) {
			level = slog.LevelDebug // a log that says nothing goes with the shim
		}
		s.log.Log(ctx, level, "request failed", "op", q.Op, "container", q.ID, "error", err)
	}
	return r
}

func (s *server) dispatch(ctx context.Context, c *net.UnixConn, q Request, files []*os.File) (r Reply, err error) {
	switch {
	case q.Op == OpPing:
		return Reply{Pid: os.Getpid()}, nil
	case q.Op == OpStart && q.Start != nil:
		record, err := s.h.Start(ctx, q.ID, *q.Start)
		return programReply(recordReply(record, nil, err))
	case q.Op == OpClone && q.Clone != nil:
		record, phases, err := s.h.Clone(ctx, q.ID, *q.Clone)
		return recordReply(record, phases, err)
	case q.Op == OpExec && q.Exec != nil:
		started := func(pid int) { _ = s.send(c, Reply{Pid: pid}) }
		status, err := s.h.Exec(ctx, q.ID, *q.Exec, files, started)
		return programReply(Reply{Exit: &status}, err)
	case q.Op == OpWait:
		status, err := s.h.Wait(ctx, q.ID)
		return Reply{Exit: &status}, err
	case q.Op == OpSettle:
		return Reply{}, s.h.Settle(ctx, q.ID)
	case q.Op == OpDelete:
		return Reply{}, s.h.Delete(ctx, q.ID, q.Force)
	case q.Op == OpBuildTemplate && q.Clone != nil:
		t, fresh, err := s.h.BuildTemplate(ctx, *q.Clone)
		return Reply{Templates: []snapshot.Template{t}, Fresh: fresh}, err
	case q.Op == OpTemplates:
		all, err := s.h.Templates(ctx)
		return Reply{Templates: all}, err
	case q.Op == OpRemoveTemplate:
		return Reply{}, s.h.RemoveTemplate(ctx, q.ID)
	}
	return r, &snapshot.Error{Kind: snapshot.KindInvalid, Op: string(q.Op), On: snapshot.ShortID(q.ID),
		Err: errors.New("unknown operation, or its part of the request is missing")}
}

// requestsFault says whether the request is to blame for an error, and not the shim.
func requestsFault(r Reply, err error) bool {
	if _, ok := errors.AsType[*ProgramError](blamed(r, err)); ok {
		return true
	}
	switch snapshot.KindOf(err) {
	case snapshot.KindInvalid, snapshot.KindNotFound, snapshot.KindState, snapshot.KindExists:
		return true
	}
	return false
}

// programReply explains why a program was not started, and says with which status.
func programReply(r Reply, err error) (Reply, error) {
	err = explain(err)
	if p, ok := errors.AsType[*ProgramError](err); ok {
		return Reply{Exit: &p.Status}, p.Err
	}
	return r, err
}

func recordReply(c snapshot.Container, phases []snapshot.Phase, err error) (Reply, error) {
	if err != nil {
		return Reply{}, err
	}
	b, err := json.Marshal(c)
	return Reply{Value: b, Phase: phases}, err
}

package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// fakeHandler answers as its functions say. A Start without a function waits for the client to go away.
type fakeHandler struct {
	start     func(ctx context.Context, id string) (snapshot.Container, error)
	cancelled chan string
	running   atomic.Int32
	busy      atomic.Bool
}

func (h *fakeHandler) Start(ctx context.Context, id string, r StartRequest) (snapshot.Container, error) {
	if h.start != nil {
		return h.start(ctx, id)
	}
	h.running.Add(1)
	defer h.running.Add(-1)
	<-ctx.Done()
	h.cancelled <- id
	return snapshot.Container{}, ctx.Err()
}

func (h *fakeHandler) Clone(_ context.Context, id string, r CloneRequest) (snapshot.Container, []snapshot.Phase, error) {
	return snapshot.Container{ID: id, Hostname: r.Record.Hostname}, []snapshot.Phase{{Name: "restore", MS: 1.5}}, nil
}

func (h *fakeHandler) Exec(_ context.Context, _ string, r ExecRequest, files []*os.File, started func(int)) (int, error) {
	if r.Args[0] == "missing" {
		return 127, errors.New("executable file not found")
	}
	started(42)
	for i, f := range files[1:] {
		if _, err := f.WriteString(r.Args[i]); err != nil {
			return -1, err
		}
	}
	in, err := io.ReadAll(files[0])
	return len(in), err
}

func (h *fakeHandler) Settle(context.Context, string) error { return nil }

func (h *fakeHandler) Wait(ctx context.Context, id string) (int, error) {
	if id == "panic" {
		panic("at the disco")
	}
	return -1, &snapshot.Error{Kind: snapshot.KindNotFound, Op: "wait for", On: id, Err: errors.New("no such container"),
		Hint: "look at ps", Log: "line\nline"}
}

func (h *fakeHandler) Delete(context.Context, string, bool) error { return nil }
func (h *fakeHandler) Idle() bool                                 { return !h.busy.Load() }

func (h *fakeHandler) BuildTemplate(_ context.Context, r CloneRequest) (snapshot.Template, bool, error) {
	return snapshot.Template{Snapshot: r.Record.Snapshot, Pid: 7, Clones: 3}, true, nil
}

func (h *fakeHandler) Templates(context.Context) ([]snapshot.Template, error) {
	return []snapshot.Template{{Snapshot: "one"}, {Snapshot: "two", State: snapshot.TemplatePinned}}, nil
}

func (h *fakeHandler) RemoveTemplate(_ context.Context, snap string) error {
	return &snapshot.Error{Kind: snapshot.KindNotFound, Op: "template rm", On: snap, Err: errors.New("none"), Hint: "look"}
}

// serving starts a server on a socket with a path longer than an address may be, and returns the socket and a channel
// that closes when the server has ended.
func serving(t *testing.T, h Handler) (socket string, ended chan struct{}) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long-", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "group.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		if err := Serve(ctx, l, h, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return socket, ended
}

func dialed(t *testing.T, h Handler) *Client {
	t.Helper()
	socket, _ := serving(t, h)
	c, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPing(t *testing.T) {
	c := dialed(t, new(fakeHandler))
	if pid, err := c.Ping(t.Context()); err != nil || pid != os.Getpid() || c.Pid() != pid {
		t.Errorf("Ping: %d, %v; want %d", pid, err, os.Getpid())
	}
	if info, err := os.Stat(c.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", info.Mode(), err)
	}
}

func TestCloneCarriesRecordAndPhases(t *testing.T) {
	c := dialed(t, new(fakeHandler))
	big := []string{strings.Repeat("x", 200<<10)} // more than one read
	got, phases, err := c.Clone(t.Context(), "id", CloneRequest{Record: snapshot.Container{Hostname: "web"}, Lower: big})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(snapshot.Container{ID: "id", Hostname: "web"}, got, cmp.AllowUnexported(), cmp.Comparer(sameRecord)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]snapshot.Phase{{Name: "restore", MS: 1.5}}, phases); diff != "" {
		t.Error(diff)
	}
}

func sameRecord(a, b snapshot.Container) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func TestErrorsArriveWhole(t *testing.T) {
	c := dialed(t, new(fakeHandler))
	_, err := c.Wait(t.Context(), "web")
	want := &snapshot.Error{Kind: snapshot.KindNotFound, Op: "wait for", On: "web", Hint: "look at ps", Log: "line\nline"}
	got, ok := errors.AsType[*snapshot.Error](err)
	if !ok || got.Err == nil || got.Err.Error() != "no such container" {
		t.Fatalf("error: %#v", err)
	}
	got.Err = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPanicIsAnErrorAndTheShimLives(t *testing.T) {
	c := dialed(t, new(fakeHandler))
	if _, err := c.Wait(t.Context(), "panic"); err == nil || !strings.Contains(err.Error(), "at the disco") {
		t.Errorf("error: %v", err)
	}
	if _, err := c.Ping(t.Context()); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

func TestDialWhereNobodyListens(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(filepath.Join(dir, "dead.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, name := range []string{"dead.sock", "missing.sock", "missing/dir.sock"} {
		_, err := Dial(t.Context(), filepath.Join(dir, name))
		if snapshot.KindOf(err) != snapshot.KindUnreachable {
			t.Errorf("%s: kind %q, %v", name, snapshot.KindOf(err), err)
		}
	}
}

func TestExecPassesFiles(t *testing.T) {
	c := dialed(t, new(fakeHandler))
	in, out, errs := pipe(t), pipe(t), pipe(t)
	if _, err := in.w.WriteString("four"); err != nil {
		t.Fatal(err)
	}
	in.w.Close()
	var pid int
	status, err := c.Exec(t.Context(), "id", ExecRequest{Args: []string{"to stdout", "to stderr"}},
		[]*os.File{in.r, out.w, errs.w}, func(p int) { pid = p })
	if err != nil || status != 4 || pid != 42 {
		t.Fatalf("status %d, pid %d, %v; want 4, 42", status, pid, err)
	}
	for _, s := range []struct {
		p    pipeEnds
		want string
	}{{out, "to stdout"}, {errs, "to stderr"}} {
		s.p.w.Close() // the shim has closed its own: this is the end
		if got, _ := io.ReadAll(s.p.r); string(got) != s.want {
			t.Errorf("read %q, want %q", got, s.want)
		}
	}
}

func TestExecStatusNextToError(t *testing.T) {
	c := dialed(t, new(fakeHandler))
	if status, err := c.Exec(t.Context(), "id", ExecRequest{Args: []string{"missing"}}, nil, nil); status != 127 || err == nil {
		t.Errorf("status %d, error %v; want 127 and an error", status, err)
	}
}

type pipeEnds struct{ r, w *os.File }

func pipe(t *testing.T) pipeEnds {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return pipeEnds{r, w}
}

func TestCancelReachesHandlerAndWaitsForUndo(t *testing.T) {
	h := &fakeHandler{cancelled: make(chan string, 1)}
	c := dialed(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for h.running.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := c.Start(ctx, "web", StartRequest{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	select {
	case <-h.cancelled:
	default:
		t.Error("Start returned before the handler had undone it")
	}
}

func TestDeadClientCancels(t *testing.T) {
	h := &fakeHandler{cancelled: make(chan string, 1)}
	socket, _ := serving(t, h)
	conn, err := dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeLine(conn, Request{Version: ProtocolVersion, Op: OpStart, ID: "web", Start: &StartRequest{}}, nil); err != nil {
		t.Fatal(err)
	}
	for h.running.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	conn.Close()
	select {
	case <-h.cancelled:
	case <-time.After(10 * time.Second):
		t.Error("the handler was not cancelled")
	}
}

func TestTwoRequestsAtOnce(t *testing.T) {
	h := new(fakeHandler)
	var both sync.WaitGroup
	both.Add(2)
	h.start = func(ctx context.Context, id string) (snapshot.Container, error) {
		both.Done()
		both.Wait() // only returns when the other request is being served as well
		return snapshot.Container{ID: id}, ctx.Err()
	}
	c := dialed(t, h)
	var requests sync.WaitGroup
	for _, id := range []string{"a", "b"} {
		requests.Go(func() {
			if got, err := c.Start(t.Context(), id, StartRequest{}); err != nil || got.ID != id {
				t.Errorf("%s: %q, %v", id, got.ID, err)
			}
		})
	}
	requests.Wait()
}

func TestBadRequests(t *testing.T) {
	socket, _ := serving(t, new(fakeHandler))
	for _, tc := range []struct {
		name, line string
		kind       snapshot.Kind
	}{
		{"not JSON", "GET / HTTP/1.1\n", snapshot.KindInvalid},
		{"empty line", "\n", snapshot.KindInvalid},
		{"another version", `{"version":99,"op":"ping"}` + "\n", snapshot.KindIncompatible},
		{"no version", `{"op":"ping"}` + "\n", snapshot.KindIncompatible},
		{"unknown operation", `{"version":2,"op":"fly"}` + "\n", snapshot.KindInvalid},
		{"start of nothing", `{"version":2,"op":"start","id":"x"}` + "\n", snapshot.KindInvalid},
		{"too long", strings.Repeat("x", maxLine+100) + "\n", snapshot.KindInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := dial(t.Context(), socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go io.WriteString(conn, tc.line) //nolint:errcheck // the shim may hang up in the middle
			var r Reply
			if err := json.NewDecoder(bufio.NewReader(conn)).Decode(&r); err != nil {
				t.Fatal(err)
			}
			if !r.Done || r.Error == nil || r.Error.Kind != tc.kind {
				t.Errorf("reply %+v, error %+v; want kind %q", r, r.Error, tc.kind)
			}
		})
	}
}

func TestTooManyFiles(t *testing.T) {
	socket, _ := serving(t, new(fakeHandler))
	before := openFiles(t)
	conn, err := dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	files := []*os.File{null, null, null, null, null, null, null, null}
	if err := writeLine(conn, Request{Version: ProtocolVersion, Op: OpPing}, files); err != nil {
		t.Fatal(err)
	}
	var r Reply
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Error == nil || r.Error.Kind != snapshot.KindInvalid {
		t.Errorf("reply: %+v", r)
	}
	conn.Close()
	null.Close()
	waitUntil(t, "the descriptors are closed", func() bool { return openFiles(t) <= before })
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func waitUntil(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte("no end"))
	f.Add([]byte("\n\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours := os.NewFile(uintptr(fds[0]), "theirs"), os.NewFile(uintptr(fds[1]), "ours")
		defer ours.Close()
		go func() {
			defer theirs.Close()
			_, _ = theirs.Write(b)
		}()
		c, err := net.FileConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		line, files, err := readLine(c.(*net.UnixConn))
		closeAll(files)
		want, _, found := bytes.Cut(b, []byte("\n"))
		if found != (err == nil) || found && !bytes.Equal(line, want) {
			t.Errorf("read %q, %v from %q", line, err, b)
		}
	})
}

func TestTemplates(t *testing.T) {
	socket, _ := serving(t, new(fakeHandler))
	c, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	got, fresh, err := c.BuildTemplate(t.Context(), CloneRequest{Record: snapshot.Container{Snapshot: "one"}})
	if want := (snapshot.Template{Snapshot: "one", Pid: 7, Clones: 3}); err != nil || !fresh || got != want {
		t.Errorf("%+v, fresh %v, %v; want %+v", got, fresh, err, want)
	}
	all, err := Templates(t.Context(), socket)
	if err != nil || len(all) != 2 || all[1].State != snapshot.TemplatePinned {
		t.Errorf("%+v, %v", all, err)
	}
	if err := c.RemoveTemplate(t.Context(), "one"); snapshot.KindOf(err) != snapshot.KindNotFound || snapshot.HintOf(err) != "look" {
		t.Errorf("removal: %v", err)
	}
}

// TestLookKeepsNobody looks at a shim's templates more often than it lingers: it ends all the same.
func TestLookKeepsNobody(t *testing.T) {
	t.Setenv(LingerVariable, "100ms")
	socket, ended := serving(t, new(fakeHandler))
	look := time.NewTicker(30 * time.Millisecond)
	defer look.Stop()
	limit := time.After(20 * time.Second)
	for {
		select {
		case <-ended:
			return
		case <-limit:
			t.Fatal("the shim does not end")
		case <-look.C:
			if _, err := Templates(t.Context(), socket); err != nil && snapshot.KindOf(err) != snapshot.KindUnreachable {
				t.Fatal(err)
			}
		}
	}
}

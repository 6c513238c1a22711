package shim

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestLinger(t *testing.T) {
	t.Setenv(LingerVariable, "40ms")
	h := new(fakeHandler)
	h.busy.Store(true)
	socket, ended := serving(t, h)
	select {
	case <-ended:
		t.Fatal("ended while it was busy")
	case <-time.After(200 * time.Millisecond):
	}
	h.busy.Store(false)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("did not end")
	}
	for _, path := range []string{socket, lockOf(socket)} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func TestLingerWaitsForSpawners(t *testing.T) {
	t.Setenv(LingerVariable, "10ms")
	dir := t.TempDir()
	l, err := tryLock(filepath.Join(dir, "group.lock"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(filepath.Join(dir, "group.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Retire() {
		t.Error("retired while somebody held the lock")
	}
	l.release()
	if !s.Retire() {
		t.Error("did not retire with the lock free")
	}
}

// TestStrangersAreTurnedAway connects as nobody, from another process, to a socket that anybody may open.
func TestStrangersAreTurnedAway(t *testing.T) {
	const variable = "SHIM_TEST_SOCKET"
	if socket := os.Getenv(variable); socket != "" {
		if _, err := Dial(t.Context(), socket); snapshot.KindOf(err) != snapshot.KindUnreachable {
			t.Errorf("a stranger got an answer: %v", err)
		}
		return
	}
	probetest.Need(t, "privileges") // to become somebody else
	dir, err := os.MkdirTemp("", "shim-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "open.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, socket} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Serve(ctx, l, new(fakeHandler), slog.New(slog.DiscardHandler)) }()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestStrangersAreTurnedAway$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+socket)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
	if _, err := Dial(t.Context(), socket); err != nil {
		t.Errorf("as ourselves: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestRetireWithoutDirectory has somebody delete the run-time directory under an idle shim: nobody can find it any more,
// and it must not wait for ever.
func TestRetireWithoutDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shims")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(filepath.Join(dir, "x.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if !l.Retire() {
		t.Error("it stays")
	}
}

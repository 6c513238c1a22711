package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

func itoa(n int) string { return strconv.Itoa(n) }

// exec runs a program in a container with an input, and returns its status and output.
func (h *host) exec(c *shim.Client, id, input string, r shim.ExecRequest) (status int, stdout, stderr string, err error) {
	h.Helper()
	var files, ends []*os.File
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			h.Fatal(err)
		}
		files, ends = append(files, r), append(ends, w)
	}
	if _, err := ends[0].WriteString(input); err != nil {
		h.Fatal(err)
	}
	ends[0].Close()
	var out, errs bytes.Buffer
	var copies sync.WaitGroup
	copies.Go(func() { _, _ = io.Copy(&out, files[1]) })
	copies.Go(func() { _, _ = io.Copy(&errs, files[2]) })
	ctx, cancel := context.WithTimeout(h.Context(), 30*time.Second)
	defer cancel()
	status, err = c.Exec(ctx, id, r, []*os.File{files[0], ends[1], ends[2]}, nil)
	ends[1].Close()
	ends[2].Close()
	copies.Wait()
	for _, f := range files {
		f.Close()
	}
	return status, out.String(), errs.String(), err
}

func TestExec(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, "sleep 1000")
	for _, tc := range []struct {
		name, script, input string
		r                   shim.ExecRequest
		status              int
		stdout, stderr      string
	}{
		{name: "status", script: "exit 5", status: 5},
		{name: "signal", script: "kill -9 $$", status: 137},
		{name: "streams", script: "cat; echo err >&2", input: "hello", stdout: "hello", stderr: "err\n"},
		{name: "environment", script: "echo $FROM $ADDED $HOME", r: shim.ExecRequest{Env: []string{"ADDED=yes", "FROM=exec"}}, stdout: "exec yes /root\n"},
		{name: "directory", script: "pwd", r: shim.ExecRequest{Workdir: "/tmp"}, stdout: "/tmp\n"},
		{name: "user by name", script: "id -u; id -g; id -G; echo $HOME", r: shim.ExecRequest{User: "web"}, stdout: "1000\n1001\n1001 1002\n/home/web\n"},
		{name: "user by number", script: "id -u; id -g", r: shim.ExecRequest{User: "7:8"}, stdout: "7\n8\n"},
		{name: "namespaces", script: "hostname; echo $(ls /proc | cat | while read p; do case $p in 1) echo one;; esac; done)", stdout: "web-host\none\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.r.Args = []string{"sh", "-c", tc.script}
			status, stdout, stderr, err := h.exec(c, r.ID, tc.input, tc.r)
			if err != nil || status != tc.status || stdout != tc.stdout || stderr != tc.stderr {
				t.Errorf("status %d, stdout %q, stderr %q, %v; want %d, %q, %q", status, stdout, stderr, err, tc.status, tc.stdout, tc.stderr)
			}
		})
	}
	h.end(c, r)
}

func TestExecRefused(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, "sleep 1000")
	for _, tc := range []struct {
		name   string
		r      shim.ExecRequest
		status int
		kind   snapshot.Kind
	}{
		{"missing program", shim.ExecRequest{Args: []string{"nope"}}, 127, snapshot.KindInvalid},
		{"missing path", shim.ExecRequest{Args: []string{"/bin/nope"}}, 127, snapshot.KindInvalid},
		{"not executable", shim.ExecRequest{Args: []string{"/etc/notexec"}}, 126, snapshot.KindFailed},
		{"missing directory", shim.ExecRequest{Args: []string{"true"}, Workdir: "/nope"}, 126, snapshot.KindFailed},
		{"no program", shim.ExecRequest{}, -1, snapshot.KindInvalid},
		{"unknown user", shim.ExecRequest{Args: []string{"true"}, User: "ghost"}, -1, snapshot.KindNotFound},
	} {
		status, _, _, err := h.exec(c, r.ID, "", tc.r)
		if status != tc.status || snapshot.KindOf(err) != tc.kind {
			t.Errorf("%s: status %d, kind %q, %v; want %d, %q", tc.name, status, snapshot.KindOf(err), err, tc.status, tc.kind)
		}
	}
	h.end(c, r)
	if _, _, _, err := h.exec(c, r.ID, "", shim.ExecRequest{Args: []string{"true"}}); snapshot.KindOf(err) != snapshot.KindState {
		t.Errorf("exec in an exited container: %v", err)
	}
}

func TestExecTerminal(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, "sleep 1000")
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	output := make(chan string, 1)
	go func() {
		defer close(output)
		master := receive(t, ours)
		if master == nil {
			return
		}
		defer master.Close()
		_, _ = master.WriteString("typed\n")
		b, _ := io.ReadAll(master) // ends with EIO
		output <- string(b)
	}()
	status, err := c.Exec(t.Context(), r.ID, shim.ExecRequest{TTY: true, Args: []string{"sh", "-c", "tty; echo $TERM; read x; echo got $x; exit 9"}},
		[]*os.File{theirs}, nil)
	theirs.Close()
	if err != nil || status != 9 {
		t.Errorf("status %d, %v; want 9", status, err)
	}
	got := <-output
	for _, want := range []string{"/dev/pts/", "xterm", "got typed"} {
		if !strings.Contains(got, want) {
			t.Errorf("terminal showed %q, without %q", got, want)
		}
	}
	h.end(c, r)
}

// receive takes one descriptor from a unix socket.
func receive(t *testing.T, socket *os.File) *os.File {
	defer socket.Close()
	conn, err := net.FileConn(socket)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer conn.Close()
	oob := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 100), oob)
	if err != nil {
		t.Error(err)
		return nil
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Errorf("%d control messages, %v", len(messages), err)
		return nil
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("%d descriptors, %v", len(fds), err)
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "master")
}

func TestExecEndsWithItsClient(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, "sleep 1000")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pid int
	_, err = c.Exec(ctx, r.ID, shim.ExecRequest{Args: []string{"sleep", "1000"}}, []*os.File{null, null, null}, func(p int) {
		pid = p
		cancel()
	})
	if err == nil && pid == 0 {
		t.Errorf("exec: %v, pid %d", err, pid)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("the program %d outlived its client", pid)
	}
	h.end(c, r)
}

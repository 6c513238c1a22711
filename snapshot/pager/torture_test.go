package pager

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

const base = 0x300000000000 // BASE of torture.c

// build compiles a program in testdata.
func build(t testing.TB, name string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	out, err := exec.Command("cc", "-O1", "-Wall", "-Werror", "-pthread", "-o", bin, filepath.Join("testdata", name+".c")).CombinedOutput()
	if err != nil {
		t.Fatalf("compile %s.c: %v\n%s", name, err, out)
	}
	return bin
}

// pages writes a pages file of n pages, as torture.c expects them, and returns the image. Pages of zeros are not in it.
func pages(t testing.TB, n int) *Image {
	t.Helper()
	dir := t.TempDir()
	var b []byte
	var runs []Run
	for i := range n {
		if i%7 == 3 {
			continue
		}
		at := uint64(base + i*pageSize)
		if k := len(runs); k > 0 && runs[k-1].End == at && i%1000 != 0 {
			runs[k-1].End += pageSize
		} else {
			runs = append(runs, Run{Start: at, End: at + pageSize, File: "pages-1.img", Offset: int64(len(b))})
		}
		for k := range uint64(pageSize / 8) {
			b = binary.NativeEndian.AppendUint64(b, uint64(i+1)*0x9E3779B97F4A7C15+k*0xC2B2AE3D27D4EB4F)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pages-1.img"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := Open(dir, map[int][]Run{1: runs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	})
	return im
}

// leaks fails the test when it leaves descriptors or goroutines.
func leaks(t testing.TB) {
	t.Helper()
	fds := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	r, w, err := os.Pipe() // the runtime opens descriptors of its own for the first of these
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	files, routines := fds(), runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for fds() > files || runtime.NumGoroutine() > routines {
			if time.Now().After(deadline) {
				b := make([]byte, 1<<16)
				t.Errorf("%d descriptors, were %d; %d goroutines, were %d\n%s", fds(), files, runtime.NumGoroutine(), routines,
					b[:runtime.Stack(b, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// torture runs the program of that name against the pager, and kills it when its memory is in doubt, as the owner of a
// clone does. It says whether that happened.
func torture(t *testing.T, p *Pager, bin string, args ...any) (doubt bool) {
	t.Helper()
	work := t.TempDir()
	s, err := p.Serve(work)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, socketName)
	cmd.Dir, cmd.Stdout, cmd.Stderr = work, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	for _, a := range args {
		cmd.Args = append(cmd.Args, fmt.Sprint(a))
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
		if !sessionEnds(ctx, s) {
			t.Errorf("%v: the session does not notice that all is done", args)
		}
	case <-s.Filled():
		if doubt = errors.Is(s.Err(), errDoubt); doubt {
			cancel()
		}
		err = <-ended
	}
	if err := s.Err(); err != nil && !errors.Is(err, errDoubt) {
		t.Errorf("%v: %v", args, err)
	}
	doubt = errors.Is(s.Err(), errDoubt)
	if doubt && out.Len() > 0 || !doubt && (err != nil || out.String() != "ok\n") {
		t.Errorf("%v: in doubt %v, %v\n%s", args, doubt, err, &out)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return doubt
}

func sessionEnds(ctx context.Context, s *Session) bool {
	select {
	case <-s.Filled():
		return true
	case <-ctx.Done():
		return false
	}
}

// TestTorture has processes check every page that they read, while their threads and forks change their memory in every
// way there is; with the background fill at once and held back, with and without a working set. A process whose memory
// is in doubt is killed before it reads anything wrong.
func TestTorture(t *testing.T) {
	leaks(t)
	const size = 4096
	bin, im := build(t, "torture"), pages(t, size)
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	guarding := make(chan error, 1)
	go func() { guarding <- sys.GuardOthers(theirs, 0) }()
	guard := sys.NewGuard(ours)
	defer func() {
		ours.Close()
		if err := <-guarding; err != nil {
			t.Error(err)
		}
		theirs.Close()
	}()
	threads := setting("PAGER_THREADS", 5)
	seeds := setting("PAGER_SEEDS", 20)
	var doubts []int
	for seed := range seeds {
		p := New(im, nil)
		if seed%4 == 1 {
			p.guard = guard
		}
		if seed%2 == 0 {
			time.AfterFunc(time.Second, p.Busy()) // holds the fill back for a second
		}
		if seed%3 == 0 {
			im.working, im.order = make(map[touch]bool), nil
		}
		if torture(t, p, bin, seed, 1+seed%threads, size, 400) {
			doubts = append(doubts, seed)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d runs ended in doubt: %v", len(doubts), seeds, doubts)
	if len(doubts) > seeds*3/4 {
		t.Error("too many to say that the rest was tried")
	}
}

// setting returns a number from the environment.
func setting(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

package sys

import (
	"os"
	"testing"
	"time"
)

// TestGuard keeps a descriptor as long as it is to be kept, and when the process that asked for it is gone for some time
// longer. A pipe stands for a userfaultfd: its reader sees the end when nobody holds the other end.
func TestGuard(t *testing.T) {
	const linger = 200 * time.Millisecond
	ours, theirs, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- GuardOthers(theirs, linger) }()
	g := NewGuard(ours)
	keep := func() (*os.File, *Kept) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		k, err := g.Keep(NewUserfault(w))
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		return r, k
	}
	ends := func(r *os.File, within time.Duration) bool {
		if err := r.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, err := r.Read(make([]byte, 1))
		return !os.IsTimeout(err)
	}
	given, k := keep()
	dying, held := keep()
	if ends(given, 50*time.Millisecond) || ends(dying, 0) {
		t.Fatal("a descriptor is not kept")
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if !ends(given, 50*time.Millisecond) {
		t.Error("a descriptor that was given up is still open")
	}
	// What the kernel does when the process dies.
	held.in.Close()
	held.out.Close()
	ours.Close()
	if ends(dying, linger/2) {
		t.Error("the descriptor died with its process")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !ends(dying, 5*time.Second) {
		t.Error("the descriptor is kept for ever")
	}
	theirs.Close()
}

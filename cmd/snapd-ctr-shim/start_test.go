package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

func TestRunToTheEnd(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, `echo to stdout; echo to stderr >&2; hostname; id -u; read x || echo no input; printf unended; exit 7`)
	if got := h.wait(c, r.ID); got != 7 {
		t.Errorf("status %d, want 7", got)
	}
	if got, want := h.log(r.ID, "stdout"), "to stdout\nweb-host\n0\nno input\nunended"; got != want {
		t.Errorf("stdout: %q, want %q", got, want)
	}
	if got := h.log(r.ID, "stderr"); got != "to stderr\n" {
		t.Errorf("stderr: %q", got)
	}
	record, err := shim.ReadContainer(h.paths.Root, r.ID)
	if err != nil || record.Status != snapshot.StatusExited || !record.ExitKnown || record.ExitStatus != 7 || record.Finished.IsZero() {
		t.Errorf("record: %+v, %v", record, err)
	}
	h.checkClean()
	if got := h.wait(c, r.ID); got != 7 {
		t.Errorf("status when asked again: %d", got)
	}
	if err := c.Delete(t.Context(), r.ID, false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(shim.ContainerDir(h.paths.Root, r.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the container's files are left: %v", err)
	}
	if _, err := c.Wait(t.Context(), r.ID); snapshot.KindOf(err) != snapshot.KindNotFound {
		t.Errorf("wait for a deleted container: %v", err)
	}
}

func TestKilled(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, "touch /written; echo ready; sleep 1000 & sleep 1000")
	h.ready(r)
	if !alive(r) {
		t.Error("not alive")
	}
	if err := c.Delete(t.Context(), r.ID, false); snapshot.KindOf(err) != snapshot.KindState {
		t.Errorf("delete of a running container: %v", err)
	}
	id, again := h.prepare("none", "/bin/true")
	if err := os.RemoveAll(shim.ContainerDir(h.paths.Root, id)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(t.Context(), r.ID, again); snapshot.KindOf(err) != snapshot.KindExists {
		t.Errorf("start of a container that runs: %v", err)
	}
	h.end(c, r)
	if _, err := os.Stat(filepath.Join(shim.ContainerDir(h.paths.Root, r.ID), "upper/written")); err != nil {
		t.Errorf("a file of the container: %v", err)
	}
}

func TestLongLines(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, "yes 0123456789 | head -n 20000; yes x | head -c 100000 | while read a; do printf $a; done")
	if got := h.wait(c, r.ID); got != 0 {
		t.Errorf("status %d", got)
	}
	want := strings.Repeat("0123456789\n", 20000) + strings.Repeat("x", 50000)
	if got := h.log(r.ID, "stdout"); got != want {
		t.Errorf("%d bytes logged, want %d", len(got), len(want))
	}
}

func TestNotStarted(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	for _, tc := range []struct {
		program string
		kind    snapshot.Kind
	}{{"missing", snapshot.KindInvalid}, {"/etc/notexec", snapshot.KindFailed}} {
		id, request := h.prepare("none", tc.program)
		_, err := c.Start(t.Context(), id, request)
		if snapshot.KindOf(err) != tc.kind {
			t.Errorf("%s: kind %q, %v", tc.program, snapshot.KindOf(err), err)
		}
		h.checkGone(id)
	}
}

// checkGone checks that a container which could not be made has left nothing.
func (h *host) checkGone(id string) {
	h.Helper()
	h.checkClean()
	if _, err := os.Lstat(shim.ContainerDir(h.paths.Root, id)); !errors.Is(err, os.ErrNotExist) {
		h.Errorf("directory of %s: %v", id, err)
	}
}

func TestFailureAtEveryStep(t *testing.T) {
	h := newHost(t)
	for _, step := range snapshot.StartMachine().Effects() {
		for _, point := range []string{"start." + string(step), "start.after-" + string(step)} {
			t.Run(point, func(t *testing.T) {
				h := &host{T: t, paths: h.paths, rootfs: h.rootfs, parent: h.parent}
				c := h.spawn(point, point+"=error")
				id, request := h.prepare("bridge", "/bin/sleep", "1000")
				_, err := c.Start(t.Context(), id, request)
				if err == nil || !strings.Contains(err.Error(), "injected fault") {
					t.Errorf("error: %v", err)
				}
				h.checkGone(id)
			})
		}
	}
}

func TestClientLeavesDuringStart(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "start.after-create=sleep:300ms")
	id, request := h.prepare("none", "/bin/sleep", "1000")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Start(ctx, id, request); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
	h.checkGone(id) // Start waits until the shim has undone it
}

func TestSpawnRace(t *testing.T) {
	h := newHost(t)
	first := h.spawn("web", "")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c, err := shim.Spawn(t.Context(), shim.SpawnOptions{Binary: os.Getenv(shimBinary), Group: "web", Paths: h.paths,
				Log: filepath.Join(t.TempDir(), "log")})
			if err != nil || c.Pid() != first.Pid() {
				t.Errorf("got shim %v, %v; want %d", c, err, first.Pid())
			}
		})
	}
	all.Wait()
}

func TestSpawnFails(t *testing.T) {
	h := newHost(t)
	h.paths.Subnet = "nonsense"
	_, err := shim.Spawn(t.Context(), shim.SpawnOptions{Binary: os.Getenv(shimBinary), Group: "web", Paths: h.paths,
		Log: filepath.Join(t.TempDir(), "log")})
	if err == nil || !strings.Contains(snapshot.LogOf(err), "nonsense") {
		t.Errorf("error %v with log %q", err, snapshot.LogOf(err))
	}
	_, err = shim.Spawn(t.Context(), shim.SpawnOptions{Binary: "/nonexistent", Group: "web", Paths: h.paths,
		Log: filepath.Join(t.TempDir(), "log")})
	if err == nil || snapshot.KindOf(err) != snapshot.KindFailed {
		t.Errorf("without a binary: %v", err)
	}
	h.reapAll()
}

// reapAll reaps children that have ended already.
func (h *host) reapAll() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}

func TestShimEndsWhenNothingRuns(t *testing.T) {
	h := newHost(t)
	t.Setenv(shim.LingerVariable, "100ms")
	log := filepath.Join(t.TempDir(), "log")
	c, err := shim.Spawn(t.Context(), shim.SpawnOptions{Binary: os.Getenv(shimBinary), Group: "web", Paths: h.paths, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	r := h.sh(c, "sleep 0.5; exit 3")
	h.reap(c.Pid())
	record, err := shim.ReadContainer(h.paths.Root, r.ID)
	if err != nil || record.ExitStatus != 3 || !record.ExitKnown {
		t.Errorf("record: %+v, %v", record, err)
	}
	entries, err := os.ReadDir(filepath.Dir(h.paths.Socket("web")))
	if err != nil || len(entries) != 0 {
		t.Errorf("left beside the socket: %v, %v", entries, err)
	}
	if err := shim.Remove(t.Context(), h.paths, r.ID); err != nil {
		t.Error(err)
	}
	h.checkGone(r.ID)
}

func TestShimTerminated(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.sh(c, "sleep 1000")
	if err := syscall.Kill(c.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.reap(c.Pid())
	record, err := shim.ReadContainer(h.paths.Root, r.ID)
	if err != nil || record.Status != snapshot.StatusExited || record.ExitStatus != 137 {
		t.Errorf("record: %+v, %v", record, err)
	}
	h.checkClean()
}

func TestShimKilled(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	r := h.run(c, "bridge", "/bin/sh", "-c", "sleep 1000 & sleep 1000")
	if err := shim.Sweep(t.Context(), h.paths, r.ID); snapshot.KindOf(err) != snapshot.KindState {
		t.Errorf("sweep under a living shim: %v", err)
	}
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.reap(c.Pid())
	t.Logf("left by a killed shim: %v, container alive: %v", h.leftovers(), alive(r))
	if err := shim.Sweep(t.Context(), h.paths, r.ID); err != nil {
		t.Error(err)
	}
	h.checkClean()
	h.reapAll()
	if alive(r) {
		t.Error("the container is alive after the sweep")
	}
	record, err := shim.ReadContainer(h.paths.Root, r.ID)
	if err != nil || record.Status != snapshot.StatusExited || record.ExitKnown {
		t.Errorf("record: %+v, %v", record, err)
	}
	leases, _ := os.ReadDir(h.paths.Leases())
	for _, l := range leases {
		if strings.Contains(l.Name(), r.ID) {
			t.Errorf("lease %s is left", l.Name())
		}
	}
}

// TestForcedDelete kills and removes in one request: a container that runs, one that is frozen, and one that has just exited.
func TestForcedDelete(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	for _, state := range []string{"running", "frozen", "exited"} {
		r := h.sh(c, "echo ready; sleep 1000 & sleep 1000")
		h.ready(r)
		switch state {
		case "frozen":
			g := sandbox.OpenCgroup(r.Cgroup)
			dir, err := g.Dir("freezer") // version 1
			file, word := "freezer.state", "FROZEN"
			if err != nil {
				dir, err = g.Dir("")
				file, word = "cgroup.freeze", "1"
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), []byte(word), 0)
			}
			if _, is, look := g.Frozen(); err != nil || look != nil || !is {
				t.Fatalf("frozen %v, %v, %v", is, err, look)
			}
		case "exited":
			h.end(c, r)
		}
		if err := c.Delete(t.Context(), r.ID, true); err != nil {
			t.Fatalf("%s: %v", state, err)
		}
		if _, err := os.Lstat(shim.ContainerDir(h.paths.Root, r.ID)); !errors.Is(err, os.ErrNotExist) || alive(r) {
			t.Errorf("%s: alive %v, its files: %v", state, alive(r), err)
		}
		h.checkClean()
	}
}

func TestNothingLeaks(t *testing.T) {
	h := newHost(t)
	c := h.spawn("web", "")
	cycle := func() {
		r := h.run(c, "bridge", "/bin/true")
		h.wait(c, r.ID)
		if err := c.Delete(t.Context(), r.ID, false); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	before := descriptors(t, c.Pid())
	for range 50 {
		cycle()
	}
	// The shim closes its end of the last connection a moment after we have our answer.
	after := descriptors(t, c.Pid())
	for deadline := time.Now().Add(5 * time.Second); len(after) > len(before) && time.Now().Before(deadline); after = descriptors(t, c.Pid()) {
		time.Sleep(time.Millisecond)
	}
	if len(after) > len(before) {
		t.Errorf("descriptors after 50 containers: %v; before: %v", after, before)
	}
	// A thread that entered a container's namespaces must be gone, or it keeps them.
	threads, err := filepath.Glob(filepath.Join("/proc", itoa(c.Pid()), "task/*/ns/mnt"))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of the shim: %v, %v", threads, err)
	}
	namespaces := make(map[string]bool)
	for _, thread := range threads {
		if ns, err := os.Readlink(thread); err == nil {
			namespaces[ns] = true
		}
	}
	if len(namespaces) != 1 {
		t.Errorf("the shim's threads are in mount namespaces %v", namespaces)
	}
}

func descriptors(t *testing.T, pid int) []string {
	t.Helper()
	dir := filepath.Join("/proc", itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name()))
		all = append(all, e.Name()+"="+target)
	}
	return all
}

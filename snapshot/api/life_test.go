package api_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

// TestCloneIsOrdinary uses a clone as any container is used: its name and host name are its own, programs run in it, its
// log is its own, and its exit status survives.
func TestCloneIsOrdinary(t *testing.T) {
	svc, _ := open(t)
	ctx := t.Context()
	c, err := svc.Run(ctx, api.RunRequest{Name: "web", Rootfs: testrootfs.Busybox(t), Limits: snapshot.Limits{MemoryBytes: 64 << 20, Pids: 50},
		Args: []string{"sh", "-c", `trap 'echo bye; exit 7' TERM; echo hello; i=0; while :; do i=$((i+1)); echo "tick $i"; usleep 20000; done`}})
	if err != nil {
		t.Fatal(err)
	}
	if err := logged(ctx, svc, c, "tick 2"); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: "web", Name: "snap", Stop: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := svc.Container(ctx, "web"); err != nil || got.Status != snapshot.StatusExited {
		t.Errorf("the container goes on after --stop: %+v, %v", got, err)
	}
	clones, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 2, Name: "fn"})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range clones {
		if want := fmt.Sprintf("fn-%d", i+1); c.Name != want {
			t.Errorf("name %s, want %s", c.Name, want)
		}
		name, err := execOutput(ctx, svc, c, "hostname")
		if err != nil || name != c.Name {
			t.Errorf("host name of %s is %q, %v", c.Name, name, err)
		}
		file, err := execOutput(ctx, svc, c, "cat", "/etc/hostname")
		if err != nil || file != c.Name {
			t.Errorf("/etc/hostname of %s is %q, %v", c.Name, file, err)
		}
		if c.Limits.MemoryBytes != 64<<20 {
			t.Errorf("limits of %s: %+v", c.Name, c.Limits)
		}
	}
	if _, err := execOutput(ctx, svc, clones[0], "touch", "/mine"); err != nil {
		t.Error(err)
	}
	if _, err := execOutput(ctx, svc, clones[1], "test", "!", "-e", "/mine"); err != nil {
		t.Errorf("a file of one clone shows in another: %v", err)
	}
	status, err := svc.Exec(ctx, clones[0].ID, api.ExecRequest{Args: []string{"sh", "-c", "exit 42"}})
	if err != nil || status != 42 {
		t.Errorf("exec: %d, %v", status, err)
	}
	follow := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		_ = svc.Logs(ctx, clones[0].ID, api.LogsRequest{Follow: true, Tail: -1, Stdout: &b, Stderr: &b})
		follow <- b.String()
	}()
	if err := logged(ctx, svc, clones[0], "tick"); err != nil {
		t.Error(err)
	}
	if err := svc.Stop(ctx, clones[0].ID, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if status, err := svc.Wait(ctx, "fn-1"); err != nil || status != 7 {
		t.Errorf("status of fn-1: %d, %v", status, err)
	}
	if log := <-follow; !strings.HasSuffix(log, "bye\n") || strings.Contains(log, "hello") {
		t.Errorf("log of fn-1, which must end with bye and be its own from the start:\n%s", log)
	}
	if err := svc.Kill(ctx, "fn-2", "KILL"); err != nil {
		t.Fatal(err)
	}
	if status, err := svc.Wait(ctx, "fn-2"); err != nil || status != 137 {
		t.Errorf("status of fn-2: %d, %v", status, err)
	}
}

// logged waits until a container's log has a text.
func logged(ctx context.Context, svc *api.Local, c *snapshot.Container, want string) error {
	return eventually(ctx, func() error {
		var b bytes.Buffer
		if err := svc.Logs(ctx, c.ID, api.LogsRequest{Tail: -1, Stdout: &b, Stderr: &b}); err != nil {
			return err
		}
		if !strings.Contains(b.String(), want) {
			return fmt.Errorf("%s has not said %q: %q", c.Name, want, b.String())
		}
		return nil
	})
}

// TestBoundToAddress snapshots a server that is bound to its container's own address: each clone answers on an address
// of its own all the same. A connection that is open at the snapshot is closed in clones, and the snapshot says so.
func TestBoundToAddress(t *testing.T) {
	svc, _ := open(t)
	ctx := t.Context()
	c, err := svc.Run(ctx, api.RunRequest{Name: "web", Rootfs: testrootfs.Busybox(t), Args: []string{"sh", "-c",
		`echo it is me > /index.html; a=$(ip -4 -o addr show eth0 | awk '{print $4}'); exec httpd -f -h / -p ${a%/*}:8080`}})
	if err != nil {
		t.Fatal(err)
	}
	me := func(c *snapshot.Container) error {
		return eventually(ctx, func() error {
			body, err := get(c, "/")
			if err == nil && body != "it is me\n" {
				err = fmt.Errorf("answer %q", body)
			}
			return err
		})
	}
	if err := me(c); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(c.Network.Address.String(), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n")); err != nil { // and no more: the server waits
		t.Fatal(err)
	}
	// The connection has been accepted once a process holds it.
	if err := eventually(ctx, func() error {
		out, err := execOutput(ctx, svc, c, "sh", "-c", "ps | grep -c '[h]ttpd'")
		if err == nil && out == "1" {
			err = fmt.Errorf("the connection has not been accepted")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: "web", Name: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"tcp-closed", "bound-to-address"} {
		if !slices.ContainsFunc(s.Snapshot.Config.Findings, func(f snapshot.Finding) bool { return f.Code == code }) {
			t.Errorf("the snapshot does not say %s: %+v", code, s.Snapshot.Config.Findings)
		}
	}
	clones, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, clone := range clones {
		if clone.Network.Address == c.Network.Address {
			t.Errorf("%s has the original's address", clone.Name)
		}
		if err := me(clone); err != nil {
			t.Errorf("%s: %v", clone.Name, err)
		}
	}
	if err := me(c); err != nil {
		t.Errorf("the original: %v", err)
	}
	if _, err := conn.Write([]byte("Connection: close\r\n\r\n")); err != nil {
		t.Error(err)
	}
	answer := make([]byte, 12)
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 200" && string(answer) != "HTTP/1.0 200" {
		t.Errorf("the original's connection did not survive the snapshot: %q, %v", answer, err)
	}
}

// TestShimKilled kills the shim of clones: none of them may go on with a part of its memory missing, and what is left is
// cleared away.
func TestShimKilled(t *testing.T) {
	svc, in := open(t)
	ctx := t.Context()
	c := ticking(t, svc)
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: c.ID, Name: "snap", Stop: true}); err != nil {
		t.Fatal(err)
	}
	if err := svc.Remove(ctx, c.ID, false); err != nil {
		t.Fatal(err)
	}
	clones, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	killProcess(t, clones[0].ShimPid)
	if err := eventually(ctx, func() error {
		running, err := svc.Containers(ctx, false)
		if err == nil && len(running) > 0 {
			err = fmt.Errorf("%d clones go on", len(running))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, err = svc.Wait(ctx, clones[0].ID)
	refused(t, err, snapshot.KindUnreachable, "exit status is lost")
	for _, c := range clones {
		if err := svc.Remove(ctx, c.ID, false); err != nil {
			t.Error(err)
		}
	}
	repairs(t, svc)
	if err := eventually(ctx, func() error {
		if left := in.Left(); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestExecTerminal runs a program on a terminal: all that it writes arrives, its last line as well.
func TestExecTerminal(t *testing.T) {
	svc, _ := open(t)
	c, err := svc.Run(t.Context(), api.RunRequest{Name: "x", Rootfs: testrootfs.Busybox(t), Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		master, slave, err := sys.OpenTerminal()
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var out strings.Builder
		go func() { // until the master is closed
			b := make([]byte, 4096)
			for {
				n, err := master.Read(b)
				mu.Lock()
				out.Write(b[:n])
				mu.Unlock()
				if err != nil {
					return
				}
			}
		}()
		status, err := svc.Exec(t.Context(), c.ID, api.ExecRequest{TTY: true, Stdin: slave, Stdout: slave, Stderr: slave,
			Args: []string{"sh", "-c", "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo line $i; done; test -t 0 && exit 5"}})
		if err != nil || status != 5 {
			t.Fatalf("status %d, %v", status, err)
		}
		if err := eventually(t.Context(), func() error {
			mu.Lock()
			defer mu.Unlock()
			if n := strings.Count(out.String(), "line "); n != 500 || !strings.Contains(out.String(), "line 500") {
				return fmt.Errorf("%d of 500 lines arrived", n)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := master.Write([]byte("\n")); err != nil { // lets go of the copy that reads our input
			t.Error(err)
		}
		slave.Close()
		master.Close()
	}
}

// TestRunRemove runs a container that is removed by itself once it has exited.
func TestRunRemove(t *testing.T) {
	svc, _ := open(t)
	c, err := svc.Run(t.Context(), api.RunRequest{Rootfs: testrootfs.Busybox(t), Args: []string{"true"}, Remove: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := eventually(t.Context(), func() error {
		if _, err := svc.Container(t.Context(), c.ID); snapshot.KindOf(err) != snapshot.KindNotFound {
			return fmt.Errorf("a look-up gives %q, want that it is not there", snapshot.KindOf(err))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestImportTrust imports a snapshot with a volume, in either archive format: its clones would be given a path of this
// host, which must be asked for.
func TestImportTrust(t *testing.T) {
	svc, _ := open(t)
	ctx := t.Context()
	dir := t.TempDir()
	c, err := svc.Run(ctx, api.RunRequest{Name: "x", Rootfs: testrootfs.Busybox(t), Volumes: []string{dir + ":/data"}, Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: c.ID, Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	for _, format := range []api.ArchiveFormat{api.ArchiveOCI, api.ArchivePodman} {
		var b bytes.Buffer
		if err := svc.ExportSnapshot(ctx, "snap", &b, format); err != nil {
			t.Fatal(err)
		}
		r := api.ImportRequest{Name: "back-" + string(format), Base: testrootfs.Busybox(t)}
		_, err := svc.ImportSnapshot(ctx, bytes.NewReader(b.Bytes()), r)
		refused(t, err, snapshot.KindIncompatible, dir)
		r.Trust = true
		if _, err := svc.ImportSnapshot(ctx, &b, r); err != nil {
			t.Errorf("%s, trusted: %v", format, err)
		}
	}
}

// TestImageTar runs a container of a root file system in a plain tar, packed or not.
func TestImageTar(t *testing.T) {
	svc, _ := open(t)
	dir := t.TempDir()
	for _, flags := range []string{"-cf", "-czf"} {
		path := filepath.Join(dir, "root"+flags+".tar")
		if out, err := exec.Command("tar", flags, path, "-C", testrootfs.Busybox(t), ".").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		c, err := svc.Run(t.Context(), api.RunRequest{Image: path, Args: []string{"sh", "-c", "echo from a tar; exit 4"}})
		if err != nil {
			t.Fatal(err)
		}
		if status, err := svc.Wait(t.Context(), c.ID); err != nil || status != 4 {
			t.Errorf("%s: status %d, %v", flags, status, err)
		}
		if err := logged(t.Context(), svc, c, "from a tar"); err != nil {
			t.Error(err)
		}
	}
}

// TestFsckSparesOthers has another state directory use the same run-time directory and bridge: its fsck takes nothing
// from the containers of the first.
func TestFsckSparesOthers(t *testing.T) {
	svc, in := open(t)
	c := ticking(t, svc)
	cfg := apitest.Config(in)
	cfg.Root += "-other"
	other, err := api.OpenLocal(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	problems, err := other.Fsck(t.Context(), true)
	if err != nil || len(problems) > 0 {
		t.Errorf("fsck of the other finds %+v, %v", problems, err)
	}
	if err := ticks(t.Context(), svc, c); err != nil {
		t.Errorf("the container does not run on: %v", err)
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/restore"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template"
)

// fakeEngine makes a "clone" by starting a script in namespaces of its own. What matters to the shim is the same: a child
// with output pipes and a cgroup that libcontainer has never heard of.
type fakeEngine struct {
	root   string // persistent state
	script string
	err    error
}

func (e *fakeEngine) Clone(_ context.Context, id string, r shim.CloneRequest) (*restore.Result, error) {
	if e.err != nil {
		return nil, e.err
	}
	if err := os.Mkdir(shim.ContainerDir(e.root, id)+"/rootfs", 0o700); err != nil {
		return nil, err
	}
	cgroup, err := sandbox.NewCgroup(r.Record.Cgroup, r.Record.Limits)
	if err != nil {
		return nil, err
	}
	stdout, outEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stderr, errEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer outEnd.Close()
	defer errEnd.Close()
	cmd := exec.Command("/bin/sh", "-c", e.script)
	cmd.Stdout, cmd.Stderr = outEnd, errEnd
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &restore.Result{Pid: cmd.Process.Pid, Running: time.Now(), Phases: []snapshot.Phase{{Name: "restore", MS: 1}},
		Network: snapshot.Network{Mode: "none"}, Stdout: stdout, Stderr: stderr,
		Release: func(context.Context) error { return cgroup.Remove() }}, cgroup.Place(cmd.Process.Pid)
}

// cloning is a shim in this process, and the request for a clone.
func cloning(t *testing.T, e *fakeEngine) (h *host, p *parent, id string, request shim.CloneRequest) {
	t.Helper()
	h = newHost(t)
	t.Cleanup(h.checkClean)
	e.root = h.paths.Root
	p = &parent{paths: h.paths, socket: h.paths.Socket("test"), engine: e, templates: &template.Engine{}, log: slog.New(slog.DiscardHandler),
		containers: make(map[string]*container)}
	id, start := h.prepare("none", "/bin/sh")
	spec, err := os.ReadFile(shim.ContainerDir(h.paths.Root, id) + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(snapshot.Config{Spec: json.RawMessage(spec)})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	return h, p, id, shim.CloneRequest{Record: start.Record, ConfigFile: file, Arrived: time.Now()}
}

func TestClone(t *testing.T) {
	h, p, id, request := cloning(t, &fakeEngine{script: "echo out; echo err >&2; read x < /dev/zero & sleep 1000; exit 1"})
	got, phases, err := p.Clone(t.Context(), id, request)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]snapshot.Phase{{Name: "restore", MS: 1}}, phases); diff != "" {
		t.Error(diff)
	}
	if got.Status != snapshot.StatusRunning || got.CloneMS <= 0 || got.Network.Mode != "none" || !alive(got) || p.Idle() {
		t.Errorf("record %+v, idle %v", got, p.Idle())
	}
	if _, _, err := p.Clone(t.Context(), id, request); snapshot.KindOf(err) != snapshot.KindExists {
		t.Errorf("the same clone again: %v", err)
	}
	h.ready(got)

	t.Run("exec", func(t *testing.T) {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		for range 2 { // the second finds what the first has written for libcontainer
			joined := make(map[string]bool)
			ctx, cancel := context.WithCancel(t.Context())
			status, err := p.Exec(ctx, id, shim.ExecRequest{Args: []string{"sleep", "1000"}}, []*os.File{null, null, null}, func(pid int) {
				for _, ns := range []string{"pid", "mnt", "uts", "ipc", "net"} {
					theirs, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", got.Pid, ns))
					its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
					joined[ns] = theirs != "" && theirs == its
				}
				cancel()
			})
			cancel()
			if err != nil || status != 137 {
				t.Errorf("status %d, %v; want 137", status, err)
			}
			if diff := cmp.Diff(map[string]bool{"pid": true, "mnt": true, "uts": true, "ipc": true, "net": true}, joined); diff != "" {
				t.Errorf("namespaces joined: %s", diff)
			}
		}
	})

	if err := syscall.Kill(got.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context(), id); err != nil || status != 137 {
		t.Errorf("status %d, %v; want 137", status, err)
	}
	if out, errs := h.log(id, "stdout"), h.log(id, "stderr"); out != "out\n" || errs != "err\n" {
		t.Errorf("logged %q and %q", out, errs)
	}
	if !p.Idle() {
		t.Error("not idle with no container")
	}
	h.checkClean()
	if err := p.Delete(t.Context(), id, false); err != nil {
		t.Error(err)
	}
	h.checkGone(id)
}

func TestCloneThatEndsAtOnce(t *testing.T) {
	_, p, id, request := cloning(t, &fakeEngine{script: "exit 3"})
	if _, _, err := p.Clone(t.Context(), id, request); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context(), id); err != nil || status != 3 {
		t.Errorf("status %d, %v; want 3", status, err)
	}
}

func TestCloneFails(t *testing.T) {
	broken := &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "restore", Err: errors.New("bad image"), Log: "tail"}
	h, p, id, request := cloning(t, &fakeEngine{err: broken})
	_, _, err := p.Clone(t.Context(), id, request)
	if snapshot.KindOf(err) != snapshot.KindCorrupt || snapshot.LogOf(err) != "tail" {
		t.Errorf("error: %v", err)
	}
	h.checkGone(id)
	if !p.Idle() {
		t.Error("not idle after a failure")
	}
}

func TestShimsEndKillsClones(t *testing.T) {
	h, p, id, request := cloning(t, &fakeEngine{script: "sleep 1000"})
	got, _, err := p.Clone(t.Context(), id, request)
	if err != nil {
		t.Fatal(err)
	}
	p.end()
	if alive(got) || !p.Idle() {
		t.Error("the clone is alive")
	}
	record, err := shim.ReadContainer(h.paths.Root, id)
	if err != nil || record.Status != snapshot.StatusExited || record.ExitStatus != 137 {
		t.Errorf("record: %+v, %v", record, err)
	}
}

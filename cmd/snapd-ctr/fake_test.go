package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// fake is a service that does nothing. It writes each request, as a line of JSON, to the file that FAKE_LOG names, and
// fails for references that are the name of a kind of error.
type fake struct{ empty bool }

var _ api.Service = fake{}

// clock is when the fake's world is.
func clock() time.Time { return time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC) }

const (
	webID  = "6f1c0e3a9b2d4f5e8a7c6b5d4e3f2a1b"
	warmID = "sha256:9d5ed678fe57bcca610140957afab571bcca610140957afab5719d5ed678fe57"
)

func (fake) note(op string, v any) {
	path := os.Getenv("FAKE_LOG")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(f, "%s %s\n", op, b)
}

// fail makes the error that a reference asks for. "stuck" waits for the end of ctx, and then for ever; "slow" only
// for the end.
func (fake) fail(ctx context.Context, op, ref string) error {
	kinds := []snapshot.Kind{
		snapshot.KindFailed, snapshot.KindInvalid, snapshot.KindNotFound, snapshot.KindExists, snapshot.KindState, snapshot.KindUnreachable,
		snapshot.KindUnsupported, snapshot.KindDevice, snapshot.KindCorrupt, snapshot.KindIncompatible, snapshot.KindNoSpace, snapshot.KindUncloneable,
	}
	for _, k := range kinds {
		if ref == string(k) {
			return &snapshot.Error{Kind: k, Op: op, On: ref, Err: errors.New("as asked"), Hint: "ask for something else"}
		}
	}
	switch ref {
	case "criulog":
		return &snapshot.Error{Kind: snapshot.KindFailed, Op: op, On: ref, Err: errors.New("criu failed"), Log: "Error (criu/a.c:1): one\nError (criu/b.c:2): two\n"}
	case "noprogram":
		return &api.ProgramError{Status: 127, Err: &snapshot.Error{Kind: snapshot.KindInvalid, Op: "program", On: `"nosuch"`,
			Err: errors.New("not found in the container"), Hint: "look along PATH"}}
	case "plain":
		return errors.New("something\nbroke")
	case "slow", "stuck":
		fmt.Fprintln(os.Stderr, "entered")
		<-ctx.Done()
		if ref == "stuck" {
			fmt.Fprintln(os.Stderr, "cancelled")
			select {}
		}
		return &snapshot.Error{Kind: snapshot.KindFailed, Op: op, On: ref, Err: ctx.Err()}
	}
	return nil
}

func containers() []*snapshot.Container {
	return []*snapshot.Container{
		{ID: webID, Name: "web", Status: snapshot.StatusRunning, Created: clock().Add(-3 * time.Minute), Pid: 4242,
			Image: "/srv/rootfs", Hostname: "web", Args: []string{"python3"},
			Network: snapshot.Network{Mode: "bridge", Bridge: "snapd0", Address: netip.MustParseAddr("10.88.64.2"), Bits: 18}},
		clone(1),
		{ID: "0badc0ffee0badc0ffee0badc0ffee00", Name: "old", Status: snapshot.StatusExited, ExitStatus: 3, ExitKnown: true,
			Created: clock().Add(-50 * time.Hour), Base: snapshot.Base{Dir: "/srv/old"}},
	}
}

func clone(n int) *snapshot.Container {
	return &snapshot.Container{ID: fmt.Sprintf("c%031d", n), Name: fmt.Sprintf("w-%d", n), Status: snapshot.StatusRunning,
		Created: clock().Add(-2 * time.Second), Pid: 5000 + n, Snapshot: warmID, Engine: "criu", CloneMS: 12.25,
		Network: snapshot.Network{Mode: "bridge", Address: netip.AddrFrom4([4]byte{10, 88, 64, byte(10 + n)})}}
}

func warm() *snapshot.Snapshot {
	return &snapshot.Snapshot{ID: warmID, Names: []string{"warm"}, Bytes: 190 << 20, Layers: make([]snapshot.Layer, 4), Config: snapshot.Config{
		Created: clock().Add(-time.Hour), Architecture: "amd64", Kernel: "6.12.0", CRIU: "4.2.1", Args: []string{"python3", "app.py"},
		Source:    snapshot.Source{Runtime: "own", ID: webID, Name: "web", Image: "/srv/rootfs", Hostname: "web"},
		Limits:    snapshot.Limits{MemoryBytes: 512 << 20, CPUs: 1.5},
		Network:   snapshot.Network{Mode: "bridge", Address: netip.MustParseAddr("10.88.64.2")},
		Listeners: []snapshot.Listener{{Proto: "tcp", Address: netip.MustParseAddr("0.0.0.0"), Port: 8080}},
		Volumes:   []string{"/data:/data:ro"},
		Processes: []snapshot.Process{{Pid: 1, Comm: "python3", Threads: 2}, {Pid: 7, PPid: 1, Comm: "sh", Threads: 1}},
		Memory:    snapshot.Memory{Pages: 45000, ZeroPages: 1200, Bytes: 43800 * 4096},
		Findings:  []snapshot.Finding{{Code: "tcp-closed", Detail: "2 connections are closed in clones", Remedy: "reconnect"}},
		Engines: []snapshot.Verdict{{Engine: "template", Why: []string{"descriptor 5 of 7 is a terminal", "2 processes"}},
			{Engine: "criu", OK: true}},
		Phases: []snapshot.Phase{{Name: "freeze", MS: 0.4}, {Name: "dump", MS: 61.25}},
	}}
}

func (f fake) Run(ctx context.Context, r api.RunRequest) (*snapshot.Container, error) {
	f.note("run", r)
	c := containers()[0]
	return c, f.fail(ctx, "run", r.Name)
}

func (f fake) Snapshot(ctx context.Context, r api.SnapshotRequest) (*api.SnapshotResult, error) {
	progress := r.Progress
	r.Progress = nil
	note := struct {
		api.SnapshotRequest
		Progress any `json:",omitempty"`
	}{SnapshotRequest: r}
	f.note("snapshot", note)
	progress(api.Progress{Phase: "dump", Done: 64 << 20, Total: 128 << 20})
	if err := f.fail(ctx, "snapshot", r.Container); err != nil {
		return nil, err
	}
	s := warm()
	return &api.SnapshotResult{Snapshot: s, FrozenMS: 61.7, TotalMS: 200.25, Phases: s.Config.Phases, Stopped: r.Stop}, nil
}

func (f fake) Fork(ctx context.Context, r api.ForkRequest) ([]*snapshot.Container, error) {
	f.note("fork", struct {
		api.ForkRequest
		Progress any `json:",omitempty"`
	}{ForkRequest: r})
	if err := f.fail(ctx, "fork", r.Container); err != nil {
		return nil, err
	}
	return []*snapshot.Container{clone(1), clone(2)}, nil
}

func (f fake) Clone(ctx context.Context, r api.CloneRequest) ([]*snapshot.Container, error) {
	f.note("clone", r)
	if r.Snapshot == "partial" {
		return []*snapshot.Container{clone(1)}, &snapshot.Error{Kind: snapshot.KindPartial, Op: "clone", On: "partial", Err: errors.New("1 of 2 failed")}
	}
	if err := f.fail(ctx, "clone", r.Snapshot); err != nil {
		return nil, err
	}
	var cs []*snapshot.Container
	for i := range r.Count {
		c := clone(i + 1)
		c.EngineWhy = os.Getenv("FAKE_WHY")
		cs = append(cs, c)
	}
	return cs, nil
}

func (f fake) BuildTemplate(ctx context.Context, ref string) (*api.Template, bool, error) {
	f.note("template build", ref)
	if err := f.fail(ctx, "template build", ref); err != nil {
		return nil, false, err
	}
	return templates()[0], ref == "warm", nil
}

func templates() []*api.Template {
	return []*api.Template{
		{Names: []string{"warm"}, Template: snapshot.Template{Snapshot: warmID, State: snapshot.TemplatePinned, Pid: 4711, Built: clock().Add(-5 * time.Minute),
			BuildMS: 31.25, Clones: 12, ResidentBytes: 177 << 20, PSSBytes: 90 << 20, HugeBytes: 172 << 20}},
		{Names: []string{}, Template: snapshot.Template{Snapshot: "sha256:" + webID, State: snapshot.TemplatePinned}},
	}
}

func (f fake) Templates(context.Context) ([]*api.Template, error) {
	if f.empty {
		return nil, nil
	}
	if os.Getenv("FAKE_SILENT") != "" {
		return templates()[:1], &snapshot.Error{Kind: snapshot.KindUnreachable, Op: "ask shim", On: "x.sock", Err: errors.New("no answer")}
	}
	return templates(), nil
}

func (f fake) RemoveTemplate(ctx context.Context, ref string) error {
	f.note("template rm", ref)
	return f.fail(ctx, "template rm", ref)
}

func (f fake) Containers(_ context.Context, all bool) ([]*snapshot.Container, error) {
	if f.empty {
		return nil, nil
	}
	found := containers()
	if !all {
		found = found[:2]
	}
	if os.Getenv("FAKE_DAMAGED") != "" {
		found = append(found, &snapshot.Container{ID: "de4dbeef00000000", Name: "de4dbeef0000", Status: snapshot.StatusDamaged})
	}
	return found, nil
}

func (f fake) Container(ctx context.Context, ref string) (*snapshot.Container, error) {
	return containers()[0], f.fail(ctx, "inspect", ref)
}

func (f fake) Exec(ctx context.Context, ref string, r api.ExecRequest) (int, error) {
	f.note("exec", map[string]any{"ref": ref, "args": r.Args, "env": r.Env, "workdir": r.Workdir, "user": r.User, "tty": r.TTY, "stdin": r.Stdin != nil})
	if r.Args[0] == "false" {
		return 42, nil
	}
	return 0, f.fail(ctx, "exec", ref)
}

func (f fake) Logs(ctx context.Context, ref string, r api.LogsRequest) error {
	fmt.Fprintln(r.Stdout, "hello")
	fmt.Fprintln(r.Stderr, "trouble")
	r.Stdout, r.Stderr = nil, nil
	f.note("logs", r)
	return f.fail(ctx, "logs", ref)
}

func (f fake) Stop(ctx context.Context, ref string, grace time.Duration) error {
	f.note("stop", []any{ref, grace.String()})
	return f.fail(ctx, "stop", ref)
}

func (f fake) Kill(ctx context.Context, ref, signal string) error {
	f.note("kill", []any{ref, signal})
	return f.fail(ctx, "kill", ref)
}

func (f fake) Remove(ctx context.Context, ref string, force bool) error {
	f.note("rm", []any{ref, force})
	return f.fail(ctx, "rm", ref)
}

func (f fake) Wait(ctx context.Context, ref string) (int, error) {
	f.note("wait", ref)
	return 7, f.fail(ctx, "wait", ref)
}

func (f fake) Usage(ctx context.Context, ref string) (*api.Usage, error) {
	return &api.Usage{ID: webID, Name: ref, Engine: snapshot.EngineTemplate, Processes: 2, Threads: 13, PrivateBytes: 3 << 20, SharedBytes: 180 << 20,
		PageTableBytes: 512 << 10}, f.fail(ctx, "stats", ref)
}

func (f fake) Snapshots(context.Context) ([]*snapshot.Snapshot, error) {
	if f.empty {
		return nil, nil
	}
	s := warm()
	s.Damage = os.Getenv("FAKE_DAMAGE")
	return []*snapshot.Snapshot{s}, nil
}

func (f fake) InspectSnapshot(ctx context.Context, ref string) (*api.Inspection, error) {
	s := warm()
	ps := []api.ProcessView{
		{Process: s.Config.Processes[0], Args: s.Config.Args,
			Mappings: []api.Mapping{{Start: 0x400000, End: 0x401000, Prot: "r-xp", Kind: "file", Name: "/usr/bin/python3", Present: 4096}},
			Files:    []api.File{{FD: 0, Kind: "regular", Name: "/dev/null"}, {FD: 3, Kind: "tcp", Name: "0.0.0.0:8080 listen"}}},
		{Process: s.Config.Processes[1], Args: []string{"sh", "-c", "evil\x1b[2J\nname"}},
	}
	return &api.Inspection{Snapshot: s, Processes: ps}, f.fail(ctx, "inspect", ref)
}

func (f fake) DiffSnapshots(ctx context.Context, a, b string) (*api.Difference, error) {
	return &api.Difference{A: a, B: b, PagesShared: 100, PagesDiffer: 3, Files: []api.Change{{Sign: "+", What: "/tmp/new"}}}, f.fail(ctx, "diff", a)
}

func (f fake) VerifySnapshot(ctx context.Context, ref string) error {
	if os.Getenv("FAKE_BROKEN") != "" {
		return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "verify", On: "sha256:1234", Err: errors.New("its content has another digest")}
	}
	return f.fail(ctx, "verify", ref)
}

func (f fake) RemoveSnapshot(ctx context.Context, ref string) error {
	f.note("rms", ref)
	return f.fail(ctx, "rm", ref)
}

func (f fake) TagSnapshot(ctx context.Context, ref, name string) error {
	f.note("tag", []string{ref, name})
	return f.fail(ctx, "tag", ref)
}

func (f fake) ExportSnapshot(ctx context.Context, ref string, w io.Writer, format api.ArchiveFormat) error {
	fmt.Fprintf(w, "archive of %s as %s\n", ref, format)
	return f.fail(ctx, "export", ref)
}

func (f fake) ImportSnapshot(ctx context.Context, archive io.Reader, r api.ImportRequest) (*snapshot.Snapshot, error) {
	b, err := io.ReadAll(archive)
	if err != nil {
		return nil, err
	}
	f.note("import", []string{strings.TrimSpace(string(b)), r.Name})
	return warm(), f.fail(ctx, "import", r.Name)
}

func (f fake) GC(_ context.Context, dryRun bool) (*api.GCResult, error) {
	return &api.GCResult{Blobs: 2, Caches: 1, Bytes: 3 << 20, Paths: []string{"blobs/sha256/aa", "blobs/sha256/bb", "cache/cc"}}, nil
}

func (f fake) Fsck(_ context.Context, repair bool) ([]api.Problem, error) {
	if f.empty {
		return nil, nil
	}
	ps := []api.Problem{{Where: "blobs/sha256/aa", What: "digest differs", Remedy: "import the snapshot again"}, {Where: "cgroup /x", What: "left over", Repaired: repair}}
	if os.Getenv("FAKE_MENDED") != "" {
		ps = ps[1:]
	}
	return ps, nil
}

func (fake) Close() error { return nil }

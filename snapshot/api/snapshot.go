package api

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/capture"
	"github.com/snapd-ctr/snapd-ctr/snapshot/runtime"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// generatedFiles are the files that the sandbox writes for each container.
var generatedFiles = []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}

// Snapshot captures a container: one of ours, or one of another runtime.
func (l *Local) Snapshot(ctx context.Context, r SnapshotRequest) (*SnapshotResult, error) {
	start := time.Now()
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.Timeout, &snapshot.Error{Kind: snapshot.KindFailed, Op: "snapshot",
			On: r.Container + r.Runtime, Err: fmt.Errorf("not done within %s", r.Timeout), Hint: "give it more with --timeout"})
		defer cancel()
	}
	req := capture.Request{Name: r.Name, Replace: r.Replace, Stop: r.Stop, Timeout: r.Timeout}
	if r.Progress != nil {
		req.Progress = func(e snapshot.Effect) { r.Progress(Progress{Phase: string(e)}) }
	}
	var own *snapshot.Container
	var err error
	if r.Runtime != "" {
		req.Source, err = find(ctx, r.Runtime)
	} else {
		own, err = l.runningContainer(ctx, "snapshot", r.Container)
		if err == nil {
			err = checkThawed("snapshot", own)
		}
	}
	if err != nil {
		return nil, err
	}
	if own != nil {
		req.Source, err = l.source(own)
		if err != nil {
			return nil, err
		}
		req.Base, req.Snapshot = &own.Base, own.Snapshot
		lock, err := sys.TryLockFile(filepath.Join(shim.ContainerDir(l.cfg.Root, own.ID), "capture.lock"))
		if errors.Is(err, sys.ErrLocked) {
			return nil, &snapshot.Error{Kind: snapshot.KindState, Op: "snapshot", On: own.Name,
				Err: errors.New("another snapshot of it is being taken"), Hint: "wait until that one is done"}
		} else if err != nil {
			return nil, err
		}
		defer lock.Close()
	}
	if r.Ready != "" || r.Warm > 0 {
		w, err := newWarmer(r, req.Source)
		if err != nil {
			return nil, err
		}
		req.Ready = w.run
	}
	if err := l.tool.Warm(ctx, l.cfg.Run); err != nil {
		return nil, err
	}
	if own != nil {
		if err := l.wholeMemory(ctx, own); err != nil {
			return nil, err
		}
	}
	got, err := (&capture.Capturer{Tool: l.tool, Store: l.store}).Capture(ctx, req)
	if err != nil {
		return nil, l.afterFailure(err, req.Source, own)
	}
	// Clones will want the images as directories; to make those now costs the first clone nothing.
	if _, err := l.store.Unpack(ctx, got.Snapshot.ID); err != nil {
		return nil, err
	}
	if r.Stop && own != nil {
		if _, err := l.Wait(ctx, own.ID); err != nil {
			return nil, err
		}
	}
	return &SnapshotResult{Snapshot: got.Snapshot, Phases: got.Phases, Stopped: r.Stop,
		FrozenMS: millis(got.Frozen), TotalMS: millis(time.Since(start))}, nil
}

// wholeMemory waits until a clone has all of its memory: what is still missing CRIU would take for zeros.
func (l *Local) wholeMemory(ctx context.Context, c *snapshot.Container) error {
	if c.Snapshot == "" {
		return nil
	}
	client, err := shim.Dial(ctx, c.ShimAddr)
	if err != nil {
		return err
	}
	return client.Settle(ctx, c.ID)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// afterFailure says in the error when the container did not survive a failed capture: that is the exception.
func (l *Local) afterFailure(err error, src *runtime.Source, own *snapshot.Container) error {
	if own == nil || running(own) {
		return err
	}
	return &snapshot.Error{Kind: snapshot.KindFailed, Op: "snapshot", On: src.Name, Err: fmt.Errorf("%w; the container has ended", err),
		Hint: "CRIU was interrupted while it had control of the container; start it again, or clone an earlier snapshot",
		Log:  snapshot.LogOf(err)}
}

func find(ctx context.Context, ref string) (*runtime.Source, error) {
	name, id, err := runtime.Parse(ref)
	if err != nil {
		return nil, err
	}
	return runtime.All()[name].Find(ctx, id)
}

// source describes one of our containers to a capture.
func (l *Local) source(c *snapshot.Container) (*runtime.Source, error) {
	dir := shim.ContainerDir(l.cfg.Root, c.ID)
	spec, err := shim.ReadSpec(l.cfg.Root, c.ID)
	if err != nil {
		return nil, err
	}
	src := &runtime.Source{Runtime: "own", ID: c.ID, Name: c.Name, Image: c.Image, Hostname: c.Hostname, Pid: c.Pid,
		Spec: spec, Args: c.Args, Upper: filepath.Join(dir, "upper"), Cgroup: c.Cgroup, Network: c.Network, Limits: c.Limits,
		Files: make(map[string]bool), Volumes: make(map[string]string)}
	for _, f := range generatedFiles {
		src.Files[f] = true
	}
	for _, v := range c.Volumes {
		source, target, _ := strings.Cut(v, ":")
		target, _, _ = strings.Cut(target, ":")
		src.Volumes[target] = source
	}
	return src, nil
}

// checkSnapshot refuses snapshots that this host cannot clone.
func checkSnapshot(s *snapshot.Snapshot, engine, arch string) error {
	if s.Config.Architecture != arch {
		return &snapshot.Error{Kind: snapshot.KindIncompatible, Op: "clone", On: snapshot.ShortID(s.ID),
			Err:  fmt.Errorf("the snapshot is of a %s machine, this one is %s", s.Config.Architecture, arch),
			Hint: "processes cannot change architecture; clone it on a machine of its own kind"}
	}
	v, known := verdict(s, engine)
	switch {
	case engine == snapshot.EngineAuto:
		return checkAny(s)
	case !known && engine == snapshot.EngineTemplate: // of a snapshot from before that engine
		return nil
	case !known:
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "clone", On: snapshot.ShortID(s.ID),
			Err: fmt.Errorf("no engine %q for this snapshot", engine), Hint: "--engine auto, template or criu"}
	case !v.OK:
		return &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "clone", On: snapshot.ShortID(s.ID),
			Err: fmt.Errorf("the %s engine cannot clone it: %s", engine, strings.Join(v.Why, "; ")), Hint: "--engine auto takes the one that can"}
	}
	return nil
}

// checkAny refuses a snapshot that no engine can clone.
func checkAny(s *snapshot.Snapshot) error {
	t, known := verdict(s, snapshot.EngineTemplate)
	c, _ := verdict(s, snapshot.EngineCRIU)
	if c.OK || known && t.OK {
		return nil
	}
	return &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "clone", On: snapshot.ShortID(s.ID),
		Err: fmt.Errorf("no engine can clone it: %s", strings.Join(append(c.Why, t.Why...), "; ")), Hint: "snapd-ctr snapshots inspect lists the reasons"}
}

// verdict returns what the capture found out about an engine.
func verdict(s *snapshot.Snapshot, engine string) (v snapshot.Verdict, known bool) {
	i := slices.IndexFunc(s.Config.Engines, func(v snapshot.Verdict) bool { return v.Engine == engine })
	if i < 0 {
		return v, false
	}
	return s.Config.Engines[i], true
}

// chooseEngine returns the engine that makes clones of a snapshot, which may still be left open, and why it is not the
// template engine where that was.
func chooseEngine(s *snapshot.Snapshot, asked string) (engine, why string) {
	if asked != snapshot.EngineAuto {
		return asked, ""
	}
	if v, known := verdict(s, snapshot.EngineTemplate); known && !v.OK {
		return snapshot.EngineCRIU, strings.Join(v.Why, "; ")
	}
	return asked, ""
}

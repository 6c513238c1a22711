// Package capture makes a snapshot of a running container: one consistent cut of its processes, their memory and the
// container's own files.
//
// The tasks are frozen from the moment CRIU has stopped the last of them until its images are written and the files
// copied. Everything that can be done before or after, is: the base layers are stored before, digests are computed and
// pages of zeros dropped after. A capture either publishes a whole snapshot or leaves nothing behind, and the
// container runs again after any failure.
package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	ctr "github.com/snapd-ctr/snapd-ctr/snapshot/runtime"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// netnsKey names the container's network namespace in CRIU's images: a clone brings its own.
const netnsKey = "net"

// Request asks for one capture.
type Request struct {
	Source *ctr.Source
	// Base is what lies beneath the container's own files. It is nil for a container of another runtime, whose lower
	// layers are then stored with the snapshot, so that it does not depend on them.
	Base     *snapshot.Base
	Snapshot string // the snapshot that the container is a clone of, if any
	Name     string
	Replace  bool
	Stop     bool
	Ready    func(context.Context) error // the application answers, and has been warmed; may be nil
	Timeout  time.Duration               // for the dump; 0: two minutes
	Progress func(snapshot.Effect)       // called before each step; may be nil
}

// Result is what a capture made.
type Result struct {
	Snapshot *snapshot.Snapshot
	Frozen   time.Duration // no process of the container ran
	Phases   []snapshot.Phase
}

// Capturer makes captures.
type Capturer struct {
	Tool  criu.Tool
	Store *store.Store
}

// Capture makes a snapshot of the container.
func (c *Capturer) Capture(ctx context.Context, r Request) (*Result, error) {
	if r.Timeout == 0 {
		r.Timeout = 2 * time.Minute
	}
	s := &session{Capturer: c, Request: r}
	defer func() { s.fast.Close() }()
	defer func() { s.strays.close() }()
	s.run = snapshot.NewExecution(snapshot.CaptureMachine(r.Stop), s.actions())
	s.run.Progress = r.Progress
	if err := s.run.Do(ctx); err != nil {
		return nil, err
	}
	return &Result{Snapshot: s.made, Frozen: s.frozen, Phases: s.run.Phases}, nil
}

// session is one capture under way.
type session struct {
	*Capturer
	Request

	run    *snapshot.Execution
	cfg    snapshot.Config
	txn    *store.Txn
	fast   *sys.ScratchFS // where CRIU writes; nil: to the staging directory
	dump   *criu.Dump
	strays strays
	places map[string]criu.Place // of the strays
	layers []snapshot.Layer
	made   *snapshot.Snapshot

	guests int // processes in the cgroup that are not of the container's tree
	frozen time.Duration
}

func (s *session) actions() snapshot.Actions {
	return snapshot.Actions{
		snapshot.EffectCheck:    s.check,
		snapshot.EffectReady:    s.ready,
		snapshot.EffectStage:    s.stage,
		snapshot.EffectUnstage:  s.unstage,
		snapshot.EffectBase:     s.base,
		snapshot.EffectPlan:     s.plan,
		snapshot.EffectDump:     s.freeze,
		snapshot.EffectUnfreeze: s.unfreeze,
		snapshot.EffectFiles:    s.files,
		snapshot.EffectThaw:     s.thaw,
		snapshot.EffectSeal:     s.seal,
		snapshot.EffectBlobs:    s.blobs,
		snapshot.EffectPublish:  s.publish,
		snapshot.EffectStopTask: s.thaw,
	}
}

func (s *session) on() string {
	if s.Source.Name != "" {
		return s.Source.Name
	}
	return snapshot.ShortID(s.Source.ID)
}

func (s *session) check(context.Context) error {
	if err := snapshot.CheckName(s.Name); err != nil {
		return err
	}
	taken, err := s.Store.NameTaken(s.Name)
	if err != nil {
		return err
	}
	if taken && !s.Replace {
		return &snapshot.Error{Kind: snapshot.KindExists, Op: "snapshot", On: s.on(),
			Err:  fmt.Errorf("there is a snapshot named %q already", s.Name),
			Hint: fmt.Sprintf("choose another name, move this one with --replace, or delete it: snapd-ctr snapshots rm %s", s.Name)}
	}
	if _, err := proc.StartTime(s.Source.Pid); err != nil {
		return &snapshot.Error{Kind: snapshot.KindState, Op: "snapshot", On: s.on(),
			Err:  fmt.Errorf("its first process (%d) is gone", s.Source.Pid),
			Hint: "only a running container can be captured; snapd-ctr ps -a shows how it ended"}
	}
	return nil
}

func (s *session) ready(ctx context.Context) error {
	if s.Ready == nil {
		return nil
	}
	return s.Ready(ctx)
}

func (s *session) stage(context.Context) error {
	txn, err := s.Store.Begin()
	if err != nil {
		return err
	}
	s.txn = txn
	s.makeScratch()
	return nil
}

func (s *session) unstage(context.Context) error {
	if s.txn == nil {
		return nil
	}
	return s.txn.Abort()
}

// plan describes the container as it is before the freeze: what it is, its mounts, its descriptors from outside.
func (s *session) plan(context.Context) error {
	src := s.Source
	version, err := s.Tool.Version(context.Background())
	if err != nil {
		return err
	}
	s.cfg.Version = snapshot.ConfigVersion
	s.cfg.Architecture = runtime.GOARCH
	s.cfg.Kernel, err = sys.KernelRelease()
	if err != nil {
		return err
	}
	s.cfg.CRIU = version
	s.cfg.Source = snapshot.Source{Runtime: src.Runtime, ID: src.ID, Name: src.Name, Image: src.Image,
		Hostname: src.Hostname, Snapshot: s.Snapshot}
	s.cfg.Args, s.cfg.Limits, s.cfg.Network = src.Args, src.Limits, src.Network
	if len(src.Spec) > 0 {
		s.cfg.Spec = json.RawMessage(src.Spec)
	}
	for _, target := range slices.Sorted(maps.Keys(src.Volumes)) {
		s.cfg.Volumes = append(s.cfg.Volumes, src.Volumes[target]+":"+target)
	}
	s.cfg.Mounts, err = sandbox.PlanMounts(src.Pid, sandbox.PlanOptions{
		Files: src.Files, Volumes: src.Volumes, CgroupPath: src.Cgroup})
	if err != nil {
		return err
	}
	s.cfg.Stdio, err = stdioOf(src.Pid)
	return err
}

func (s *session) imagesDir() string { return filepath.Join(s.scratch(), "images") }

func (s *session) freeze(ctx context.Context) error {
	work := filepath.Join(s.scratch(), "work")
	for _, d := range []string{s.imagesDir(), work} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	external := append(sandbox.DumpExternals(s.cfg.Mounts), outside(s.cfg.Stdio)...)
	inode, err := proc.NamespaceInode(s.Source.Pid, "net")
	if err != nil {
		return err
	}
	if ours, err := proc.NamespaceInode(os.Getpid(), "net"); err != nil {
		return err
	} else if inode != ours {
		s.cfg.NetnsKey = netnsKey
		external = append(external, fmt.Sprintf("net[%d]:%s", inode, netnsKey))
	}
	if s.strays, err = findStrays(s.Source.Pid); err != nil {
		return err
	}
	external = append(external, s.strays.external()...)
	s.guests = guests(s.Source.Pid, s.Source.Cgroup)
	s.dump, err = s.Tool.Dump(ctx, criu.DumpOptions{
		Pid: s.Source.Pid, Images: s.imagesDir(), Work: work, External: external,
		LeaveRunning: !s.Stop, TCPClose: true, Timeout: s.Timeout, PidFile: os.Getenv(pidFileVariable)})
	s.cfg.Created = time.Now().UTC() // it stands still: a timer for a time of the day is not to be early in a clone
	return err
}

// pidFileVariable names the file to which a test wants CRIU's process id written.
const pidFileVariable = "SNAPD_CTR_CRIU_PIDFILE"

func (s *session) unfreeze(context.Context) error {
	if s.dump == nil {
		return nil
	}
	d := s.dump
	s.dump = nil
	return d.Rollback()
}

func (s *session) thaw(context.Context) error {
	d := s.dump
	s.dump = nil
	stats, err := d.Finish()
	if err != nil {
		return err
	}
	// CRIU's figure: from the first task stopped to the last one let go, the copying of files included.
	s.frozen = time.Duration(stats.FrozenMS * float64(time.Millisecond))
	return nil
}

package template

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// refillPause is for how long no clone must have been asked for before slots are made again: making them takes the same
// processors as making clones.
const refillPause = 20 * time.Millisecond

// slots are the sandboxes made ahead for one snapshot's clones. A slot is a clone's session that has gone as far as
// its sandbox, under an id of its own, by which the one who wants a clone claims it (see [shim.ClaimSlot]).
type slots struct {
	engine   *Engine
	like     shim.CloneRequest // the first clone's
	resident *resident
	want     int

	mu       sync.Mutex
	ready    map[string]*session
	used     []network // of clones that have ended
	roots    []root    // likewise
	asked    time.Time // when a clone was last asked for
	wake     chan struct{}
	closed   bool
	gone     sync.WaitGroup
	apart    bool          // … and have nothing in common with anybody by which they could hand on a directory of theirs
	confined bool          // clones leave their networks as they found them, and cannot change how a file system is mounted
	lock     *sys.FileLock // says that these slots are somebody's
}

func newSlots(e *Engine, like shim.CloneRequest, t *resident, want int) *slots {
	s := &slots{engine: e, like: like, resident: t, want: want, ready: make(map[string]*session), wake: make(chan struct{}, 1)}
	s.confined = reusable(&like.Config, like.Record.Network)
	s.apart = s.confined && !slices.ContainsFunc(like.Config.Mounts, func(m snapshot.Mount) bool { return m.Kind == snapshot.MountBind })
	s.gone.Go(s.fill)
	s.nudge()
	return s
}

// take returns the slot with the id, nil if there is none.
func (s *slots) take(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = time.Now()
	slot := s.ready[id]
	delete(s.ready, id)
	return slot
}

// nudge has slots made where they are lacking.
func (s *slots) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fill makes slots until there are enough, whenever it is woken, and none while clones are being asked for.
func (s *slots) fill() {
	for range s.wake {
		if !s.own() {
			continue // until the next clone is asked for
		}
		s.purge()
		for s.lacking() {
			if err := s.add(); err != nil {
				s.engine.Log.Warn("a sandbox could not be made ahead", "error", err)
				break
			}
		}
	}
}

// own takes the lock that says that the snapshot's slots are ours, and clears away those of a shim that was killed. While
// somebody else has it, fsck or a place that is being given up, there are none.
func (s *slots) own() bool {
	if s.lock != nil {
		return true
	}
	var err error
	if s.lock, err = shim.LockSlots(s.engine.Root, s.like.Record.Snapshot); err != nil {
		s.engine.Log.Debug("no sandboxes are made ahead yet", "error", err)
		return false
	}
	s.sweep()
	return true
}

// purge gives up slots that were claimed for clones which will never be asked for: they have neither a slot's directory nor
// a container's.
func (s *slots) purge() {
	s.mu.Lock()
	var lost []*session
	for id, slot := range s.ready {
		if missing(shim.SlotDir(s.engine.Root, s.like.Record.Snapshot, id)) && missing(shim.ContainerDir(s.engine.Root, id)) {
			lost = append(lost, slot)
			delete(s.ready, id)
		}
	}
	s.mu.Unlock()
	for _, slot := range lost {
		if err := slot.discard(""); err != nil {
			s.engine.Log.Warn("a sandbox that was claimed in vain", "id", slot.id, "error", err)
		}
	}
}

// missing says whether a directory is not there. One that is renamed from one name to the other is looked for in that order.
func missing(dir string) bool {
	_, err := os.Lstat(dir)
	return errors.Is(err, fs.ErrNotExist)
}

func (s *slots) lacking() bool {
	for {
		s.mu.Lock()
		closed, have, quiet := s.closed, len(s.ready), time.Since(s.asked)
		s.mu.Unlock()
		if closed || have >= s.want {
			return false
		}
		if quiet >= refillPause {
			return true
		}
		time.Sleep(refillPause - quiet)
	}
}

// add makes a slot. Its directory is made under another name and gets its own when all is ready.
func (s *slots) add() error {
	id := snapshot.NewID()
	net := s.again()
	if net != nil {
		id = net.id
	}
	dir := shim.SlotDir(s.engine.Root, s.like.Record.Snapshot, id)
	making := s.making(id)
	if err := os.MkdirAll(making, 0o700); err != nil {
		return err
	}
	r := s.like
	r.Record.ID, r.Record.Hostname, r.Record.Limits = id, "", snapshot.Limits{}
	r.Record.Cgroup = path.Join(path.Dir(s.like.Record.Cgroup), id)
	slot := &session{Engine: s.engine, id: id, dir: making, r: r, resident: s.resident, used: net}
	slot.run = snapshot.NewExecution(snapshot.SlotMachine(), slot.actions())
	if err := slot.run.Do(context.Background()); err != nil {
		if net != nil && slot.netns == nil { // it did not come to that
			err = errors.Join(err, s.drop(*net))
		}
		return errors.Join(err, os.RemoveAll(making))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return slot.discard(making)
	}
	if err := os.Rename(making, dir); err != nil {
		return errors.Join(err, slot.discard(making))
	}
	s.ready[id] = slot
	return nil
}

// discard takes back a slot, and its directory where that is still its own.
func (s *session) discard(dir string) error {
	s.closeHandedOver()
	err := s.run.Undo(context.Background())
	if dir != "" {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// Close takes back all slots. One that has been claimed keeps its directory, which is a container's now, and the clone
// that is asked for with it makes its own sandbox.
func (s *slots) Close() error {
	s.mu.Lock()
	s.closed = true
	close(s.wake)
	ready, used, roots := s.ready, s.used, s.roots
	s.ready, s.used, s.roots = make(map[string]*session), nil, nil
	s.mu.Unlock()
	s.gone.Wait()
	var errs []error
	for _, n := range used {
		errs = append(errs, s.drop(n))
	}
	for _, r := range roots {
		errs = append(errs, s.dropRoot(r))
	}
	for id, slot := range ready {
		gone := shim.GoneSlot(s.engine.Root, s.like.Record.Snapshot, id)
		if err := os.Rename(shim.SlotDir(s.engine.Root, s.like.Record.Snapshot, id), gone); err != nil {
			gone = ""
		}
		errs = append(errs, slot.discard(gone))
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// sweep takes away what a shim that was killed left of its slots. There is one shim for a snapshot.
func (s *slots) sweep() {
	root, snap := s.engine.Root, s.like.Record.Snapshot
	ids, err := shim.SnapshotSlots(root, snap)
	if err != nil {
		s.engine.Log.Warn("look for sandboxes of a dead shim", "error", err)
	}
	for _, id := range ids {
		gone, ours := shim.UnclaimedSlot(root, snap, id)
		if !ours {
			continue
		}
		c := snapshot.Container{ID: id, Cgroup: path.Join(path.Dir(s.like.Record.Cgroup), id), Network: s.like.Record.Network}
		if err := errors.Join(s.engine.Sweep(c), os.RemoveAll(gone)); err != nil {
			s.engine.Log.Warn("a dead shim's sandbox could not be cleared away", "id", id, "error", err)
		}
	}
}

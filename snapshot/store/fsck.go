package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Problem is something that Check found.
type Problem struct {
	Where    string // path below the store, or an id
	What     string
	Remedy   string // what the user can do; empty when it was repaired
	Repaired bool
}

// checker is one run of Check. The store's lock is held.
type checker struct {
	s        *Store
	e        *lease
	repair   bool
	live     map[string]bool
	damaged  map[string]bool // digests of blobs
	problems []Problem
}

// Check looks at everything in the store: permissions, index, every blob's digest, what dead processes left, and
// whether the caches still say what the blobs say. With repair it corrects permissions, deletes leavings and damaged
// blobs that nothing names, and moves other damaged blobs and damaged caches to quarantine/, where running containers
// do not lose them; caches are made again when they are needed. An index that is lost or damaged it writes anew. A sound snapshot is never touched. The error is about
// Check itself, not about what it found.
func (s *Store) Check(ctx context.Context, repair bool) ([]Problem, error) {
	e, err := s.newLease()
	if err != nil {
		return nil, failure("check", s.dir, err)
	}
	defer e.Close()
	l, err := s.lockStore(true)
	if err != nil {
		return nil, failure("check", s.dir, err)
	}
	defer func() {
		if l != nil {
			l.Close()
		}
	}()
	c := &checker{s: s, e: e, repair: repair, live: make(map[string]bool), damaged: make(map[string]bool)}
	if err := c.staging(ctx); err != nil {
		return c.problems, failure("check", s.dir, err)
	}
	if !repair { // the rest only reads: others may add blobs meanwhile
		l.Close()
		if l, err = s.lockStore(false); err != nil {
			return c.problems, failure("check", s.dir, err)
		}
	}
	for _, step := range []func(context.Context) error{c.permissions, c.blobs, c.index, c.trees, c.caches} {
		if err := step(ctx); err != nil {
			return c.problems, failure("check", s.dir, err)
		}
	}
	return c.problems, nil
}

// found notes a problem. fix, when there is one, is what repair does.
func (c *checker) found(where, what, remedy string, fix func() error) error {
	p := Problem{Where: where, What: what, Remedy: remedy}
	if c.repair && fix != nil {
		if err := fix(); err != nil {
			return err
		}
		p.Repaired, p.Remedy = true, ""
	}
	c.problems = append(c.problems, p)
	return nil
}

const remedyRepair = "run `snapd-ctr fsck --repair`"

// quarantine moves a path out of the way, to a name with the day. What is open, or mounted, stays so.
func (c *checker) quarantine(where string) error {
	if err := os.MkdirAll(c.s.path(dirDamaged), 0o700); err != nil {
		return err
	}
	for i := 0; ; i++ {
		to := c.s.path(dirDamaged, fmt.Sprintf("%s.%s.%d", filepath.Base(where), time.Now().UTC().Format(time.DateOnly), i))
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(c.s.path(where), to)
		}
	}
}

// permissions: snapshots hold memory, and memory holds secrets.
func (c *checker) permissions(context.Context) error {
	want := map[string]fs.FileMode{".": 0o700, "blobs": 0o700, dirBlobs: 0o700, dirStaging: 0o700, dirCache: 0o700, dirLayers: 0o700,
		dirContents: 0o700, dirDamaged: 0o700, fileIndex: 0o600, filePins: 0o600, fileLayout: 0o600}
	entries, err := os.ReadDir(c.s.path(dirBlobs))
	if err != nil {
		return err
	}
	for _, e := range entries {
		want[filepath.Join(dirBlobs, e.Name())] = 0o600
	}
	for name, mode := range want {
		st, err := os.Lstat(c.s.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if st.Mode().Perm()&^mode == 0 {
			continue
		}
		err = c.found(name, fmt.Sprintf("others can get at it: mode %#o", st.Mode().Perm()), remedyRepair,
			func() error { return os.Chmod(c.s.path(name), mode) })
		if err != nil {
			return err
		}
	}
	return nil
}

// staging finds what dead processes left, and learns what living ones hold.
func (c *checker) staging(context.Context) error {
	held, dead, err := c.s.leases()
	if err != nil {
		return err
	}
	for d := range held {
		c.live[d] = true
	}
	reported := make(map[string]bool)
	for _, p := range dead {
		p = strings.TrimSuffix(p, leaseSuffix)
		if reported[p] || c.s.ended(p) {
			continue
		}
		reported[p] = true
		err := c.found(p, "left by a process that died", remedyRepair, func() error {
			return errors.Join(os.RemoveAll(c.s.path(p)), removeFile(c.s.path(p+leaseSuffix)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// blobs reads every blob. What is done about a damaged one depends on who names it, which index finds out.
func (c *checker) blobs(ctx context.Context) error {
	entries, err := os.ReadDir(c.s.path(dirBlobs))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		where := filepath.Join(dirBlobs, e.Name())
		d := digestPrefix + e.Name()
		if checkDigest(d) != nil || !e.Type().IsRegular() {
			err := c.found(where, "not a blob", remedyRepair, func() error { return c.quarantine(where) })
			if err != nil {
				return err
			}
			continue
		}
		got, _, err := digestFile(c.s.path(where))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		c.damaged[d] = got != d
	}
	return nil
}

// index follows every entry of the index to its blobs.
func (c *checker) index(ctx context.Context) error {
	x, err := c.s.readIndex()
	if snapshot.KindOf(err) == snapshot.KindCorrupt {
		if err := c.rebuild(ctx, err); err != nil || !c.repair {
			return err
		}
		x, err = c.s.readIndex()
	}
	if err != nil {
		return err
	}
	pins, err := c.s.readPins()
	if err != nil {
		return c.found(filePins, err.Error(), "delete it and pull the images again", nil)
	}
	for ref, p := range pins {
		for _, d := range p.Base.Layers {
			if err := c.blob(d, -1, "image "+ref, "pull the image again"); err != nil {
				return err
			}
		}
	}
	seen := make(map[string]bool)
	for _, d := range x.Manifests {
		if id := string(d.Digest); !seen[id] {
			seen[id] = true
			if err := c.manifest(d); err != nil {
				return err
			}
		}
	}
	for d, bad := range c.damaged {
		if !bad || c.live[d] {
			continue
		}
		where := filepath.Join(dirBlobs, hexOf(d))
		if err := c.found(where, "damaged, and needed by nothing", remedyRepair, func() error { return os.Remove(c.s.path(where)) }); err != nil {
			return err
		}
	}
	return nil
}

// manifest checks one entry of the index and all it needs.
func (c *checker) manifest(d v1.Descriptor) error {
	id := string(d.Digest)
	who := "snapshot " + snapshot.ShortID(id)
	if name := nameOf(d); name != "" {
		who = "snapshot " + name
	}
	remedy := "take or import it again, and remove this one: `snapd-ctr snapshots rm " + snapshot.ShortID(id) + "`"
	if err := c.blob(id, d.Size, who, remedy); err != nil || c.damaged[id] || !c.has(id) {
		return err
	}
	if !isOurs(d) {
		return c.foreign(d)
	}
	m, _, err := c.s.readManifest(id)
	if err != nil {
		return c.found(who, err.Error(), remedy, nil)
	}
	whole := true
	for _, l := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := c.blob(string(l.Digest), l.Size, who, remedy); err != nil {
			return err
		}
		whole = whole && c.has(string(l.Digest)) && !c.damaged[string(l.Digest)]
	}
	if !whole {
		return nil
	}
	b, err := c.s.readBlob(string(m.Config.Digest))
	var cfg snapshot.Config
	if err == nil {
		err = decodeConfig(b, id, &cfg)
	}
	if err == nil {
		err = checkStructure(id, cfg, m)
	}
	if err != nil {
		return c.found(who, err.Error(), remedy, nil)
	}
	return nil
}

// foreign marks what an artifact of another program refers to, where that can be read.
func (c *checker) foreign(d v1.Descriptor) error {
	err := c.s.markAll(c.live, []v1.Descriptor{d})
	if snapshot.KindOf(err) == snapshot.KindCorrupt {
		return c.found("artifact "+string(d.Digest), err.Error(), "fetch it again with the program that put it here", nil)
	}
	return err
}

func (c *checker) has(digest string) bool {
	_, ok := c.damaged[digest]
	return ok
}

// blob notes that somebody needs a blob, and what is wrong with it. size is negative when nobody said.
func (c *checker) blob(digest string, size int64, who, remedy string) error {
	again := c.live[digest] && c.damaged[digest]
	c.live[digest] = true
	where := filepath.Join(dirBlobs, hexOf(digest))
	bad, there := c.damaged[digest]
	switch {
	case !there:
		return c.found(where, "missing; needed by "+who, remedy, nil)
	case bad && again:
		return c.found(where, "damaged; needed by "+who, remedy, nil)
	case bad:
		if err := c.found(where, "damaged; needed by "+who, remedy, func() error { return c.quarantine(where) }); err != nil {
			return err
		}
		if c.repair {
			// It is out of the way, and still the snapshot is lost.
			i := len(c.problems) - 1
			c.problems[i].Remedy = remedy
		}
		return nil
	case size >= 0:
		if st, err := os.Stat(c.s.path(where)); err == nil && st.Size() != size {
			return c.found(where, fmt.Sprintf("has %d bytes where %s says %d", st.Size(), who, size), remedy, nil)
		}
	}
	return nil
}

// sortProblems gives the report an order that does not change from run to run.
func sortProblems(p []Problem) {
	slices.SortStableFunc(p, func(a, b Problem) int { return strings.Compare(a.Where, b.Where) })
}

package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/capture"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// Snapshots lists the snapshots in the store.
func (l *Local) Snapshots(context.Context) ([]*snapshot.Snapshot, error) { return l.store.List() }

// images opens the CRIU images of a snapshot.
func (l *Local) images(ctx context.Context, ref string) (*snapshot.Snapshot, *criu.Images, error) {
	s, err := l.store.Get(ref)
	if err != nil {
		return nil, nil, err
	}
	u, err := l.store.Unpack(ctx, s.ID)
	if err != nil {
		return nil, nil, err
	}
	im, err := criu.Open(u.Images)
	return s, im, err
}

// InspectSnapshot reads a snapshot's images.
func (l *Local) InspectSnapshot(ctx context.Context, ref string) (*Inspection, error) {
	s, im, err := l.images(ctx, ref)
	if err != nil {
		return nil, err
	}
	views, err := im.View()
	if err != nil {
		return nil, err
	}
	out := &Inspection{Snapshot: s}
	for _, v := range views {
		p := ProcessView{Process: v.Process, Args: v.Args}
		for _, m := range v.Mappings {
			p.Mappings = append(p.Mappings, Mapping(m))
		}
		for _, f := range v.Files {
			p.Files = append(p.Files, File(f))
		}
		out.Processes = append(out.Processes, p)
	}
	return out, nil
}

// DiffSnapshots compares two snapshots: their pages, processes and files.
func (l *Local) DiffSnapshots(ctx context.Context, a, b string) (*Difference, error) {
	sa, ia, err := l.images(ctx, a)
	if err != nil {
		return nil, err
	}
	sb, ib, err := l.images(ctx, b)
	if err != nil {
		return nil, err
	}
	d := &Difference{A: sa.ID, B: sb.ID}
	d.PagesShared, d.PagesOnlyA, d.PagesOnlyB, d.PagesDiffer, err = criu.ComparePages(ia, ib)
	if err != nil {
		return nil, err
	}
	d.Processes = changes(processLines(sa), processLines(sb))
	fa, err := l.store.RootfsFiles(ctx, sa.ID)
	if err != nil {
		return nil, err
	}
	fb, err := l.store.RootfsFiles(ctx, sb.ID)
	if err != nil {
		return nil, err
	}
	d.Files = changes(fa, fb)
	return d, nil
}

func processLines(s *snapshot.Snapshot) map[string]string {
	lines := make(map[string]string)
	for _, p := range s.Config.Processes {
		lines[fmt.Sprintf("%d %s", p.Pid, p.Comm)] = fmt.Sprintf("%d threads, %d bytes", p.Threads, p.Bytes)
	}
	return lines
}

// changes compares two sets of things, each with a value that stands for its content.
func changes(a, b map[string]string) []Change {
	var out []Change
	for what, va := range a {
		vb, both := b[what]
		switch {
		case !both:
			out = append(out, Change{Sign: "-", What: what})
		case va != vb:
			out = append(out, Change{Sign: "~", What: what})
		}
	}
	for what := range b {
		if _, both := a[what]; !both {
			out = append(out, Change{Sign: "+", What: what})
		}
	}
	slices.SortFunc(out, func(x, y Change) int {
		if x.What < y.What {
			return -1
		}
		return 1
	})
	return out
}

// VerifySnapshot reads every blob of a snapshot and its images.
func (l *Local) VerifySnapshot(ctx context.Context, ref string) error {
	id, err := l.store.Resolve(ref)
	if err != nil {
		return err
	}
	if err := l.store.Verify(ctx, id); err != nil {
		return err
	}
	_, im, err := l.images(ctx, id)
	if err != nil {
		return err
	}
	_, err = im.Processes()
	return err
}

// RemoveSnapshot deletes a snapshot, or one of its names. A snapshot with clones stays: their files lie on it.
func (l *Local) RemoveSnapshot(ctx context.Context, ref string) error {
	s, err := l.store.Get(ref)
	if err != nil {
		return err
	}
	cs, err := l.records()
	if err != nil {
		return err
	}
	var users []string
	for _, c := range cs {
		if c.Snapshot == s.ID {
			users = append(users, c.Name)
		}
	}
	if len(users) > 0 && len(s.Names) <= 1 {
		return &snapshot.Error{Kind: snapshot.KindState, Op: "snapshots rm", On: ref,
			Err:  fmt.Errorf("%d containers are clones of it, %s among them", len(users), users[0]),
			Hint: "remove them first: snapd-ctr rm -f NAME"}
	}
	if len(s.Names) <= 1 && l.pinned(ctx, s.ID) {
		return &snapshot.Error{Kind: snapshot.KindState, Op: "snapshots rm", On: ref, Err: errors.New("its template is pinned"),
			Hint: "remove that first: snapd-ctr template rm " + ref}
	}
	return l.store.Remove(ref)
}

// TagSnapshot gives a snapshot another name.
func (l *Local) TagSnapshot(_ context.Context, ref, name string) error {
	if err := snapshot.CheckName(name); err != nil {
		return err
	}
	return l.store.Tag(ref, name)
}

// ExportSnapshot writes a snapshot as an archive.
func (l *Local) ExportSnapshot(ctx context.Context, ref string, w io.Writer, format ArchiveFormat) error {
	id, err := l.store.Resolve(ref)
	if err != nil {
		return err
	}
	if format == ArchivePodman {
		return l.store.ExportPodman(ctx, id, w)
	}
	return l.store.Export(ctx, id, w)
}

// ImportSnapshot reads an archive. An OCI layout has a file of that name near its beginning; anything else is taken for
// a checkpoint archive of podman.
func (l *Local) ImportSnapshot(ctx context.Context, archive io.Reader, r ImportRequest) (*snapshot.Snapshot, error) {
	if r.Name != "" {
		if err := l.freeName(r.Name); err != nil {
			return nil, err
		}
	}
	b := bufio.NewReaderSize(archive, 1<<20)
	accept := func(cfg snapshot.Config) error { return trusted(cfg, r.Trust) }
	if !store.IsPodmanArchive(b) {
		return l.store.Import(ctx, b, r.Name, accept)
	}
	var base *snapshot.Base
	if r.Base != "" {
		given, err := l.importBase(ctx, r.Base)
		if err != nil {
			return nil, err
		}
		base = &given
	}
	return l.store.ImportPodman(ctx, b, r.Name, base, capture.Adopt, accept)
}

func (l *Local) freeName(name string) error {
	if err := snapshot.CheckName(name); err != nil {
		return err
	}
	taken, err := l.store.NameTaken(name)
	if err == nil && taken {
		err = &snapshot.Error{Kind: snapshot.KindExists, Op: "import", On: name, Err: errors.New("the name is taken"),
			Hint: "choose another name, or delete that snapshot: snapd-ctr snapshots rm " + name}
	}
	return err
}

// trusted refuses an archive that would have clones reach into this host, unless the user vouches for it.
func trusted(cfg snapshot.Config, trust bool) error {
	if trust {
		return nil
	}
	var paths []string
	for _, m := range cfg.Mounts {
		if m.Kind == snapshot.MountBind {
			paths = append(paths, m.Source)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return &snapshot.Error{Kind: snapshot.KindIncompatible, Op: "import", On: "the archive",
		Err:  fmt.Errorf("its clones would be given %s of this host", strings.Join(paths, ", ")),
		Hint: "if you know where it comes from and want that, add --trust"}
}

// importBase finds what a podman archive stands on: a directory of this host, or an image.
func (l *Local) importBase(ctx context.Context, ref string) (snapshot.Base, error) {
	if dir, err := filepath.Abs(ref); err == nil {
		if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
			if st, err := os.Stat(dir); err == nil && st.IsDir() {
				return snapshot.Base{Dir: dir}, nil
			}
		}
	}
	base, _, err := l.image(ctx, RunRequest{Image: ref})
	return base, err
}

// inUse says what of the store containers need.
func (l *Local) inUse() (snapshots map[string]bool, layers []string, err error) {
	// A record that cannot be read might need anything: nothing is deleted then.
	cs, err := shim.ListContainers(l.cfg.Root)
	if err != nil {
		return nil, nil, err
	}
	snapshots = make(map[string]bool)
	for _, c := range cs {
		if c.Snapshot != "" {
			snapshots[c.Snapshot] = true
		}
		layers = append(layers, c.Base.Layers...)
	}
	return snapshots, layers, nil
}

// GC deletes what nothing needs.
func (l *Local) GC(_ context.Context, dryRun bool) (*GCResult, error) {
	snapshots, layers, err := l.inUse()
	if err != nil {
		return nil, err
	}
	var r GCResult
	r.Blobs, r.Caches, r.Bytes, r.Paths, err = l.store.GC(func(id string) bool { return snapshots[id] }, layers, dryRun)
	return &r, err
}

// Fsck checks the store and what containers left on the host.
func (l *Local) Fsck(ctx context.Context, repair bool) ([]Problem, error) {
	found, err := l.store.Check(ctx, repair)
	if err != nil {
		return nil, err
	}
	var out []Problem
	for _, p := range found {
		out = append(out, Problem{Where: p.Where, What: p.What, Repaired: p.Repaired, Remedy: p.Remedy})
	}
	left, err := l.leftovers(repair)
	return append(out, left...), err
}

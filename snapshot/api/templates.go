package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// Template is a template and the names of its snapshot, none when that is no longer in the store.
type Template struct {
	snapshot.Template
	Names []string `json:"names"`
}

// clonesPrefix begins the name of each group of clones: those of one snapshot.
const clonesPrefix = "snapshot-"

// groupOf is the group of a snapshot's clones, whose shim has its template.
func groupOf(id string) string { return clonesPrefix + snapshot.ShortID(id) }

// listWait is how long one shim may take to list its templates.
const listWait = 5 * time.Second

// BuildTemplate builds a snapshot's template and pins it.
func (l *Local) BuildTemplate(ctx context.Context, ref string) (*Template, bool, error) {
	const op = "template build"
	snap, err := l.store.Get(ref)
	if err != nil {
		return nil, false, err
	}
	if err := checkSnapshot(snap, snapshot.EngineTemplate, goruntime.GOARCH); err != nil {
		return nil, false, forTemplate(op, ref, err)
	}
	unpacked, err := l.store.Unpack(ctx, snap.ID)
	if err != nil {
		return nil, false, err
	}
	r := CloneRequest{Snapshot: ref, Count: 1, Engine: snapshot.EngineTemplate}
	like := l.cloneRecords(snap, r, snap.Config.Limits, snapshot.EngineTemplate, "")[0]
	client, err := l.spawn(ctx, groupOf(snap.ID))
	if err != nil {
		return nil, false, err
	}
	t, fresh, err := client.BuildTemplate(ctx, shim.CloneRequest{Record: like, ConfigFile: unpacked.Config,
		Lower: unpacked.Lower, Images: unpacked.Images, Contents: unpacked.Contents, Engine: snapshot.EngineTemplate})
	if err != nil {
		return nil, false, forTemplate(op, ref, err)
	}
	return &Template{Template: t, Names: snap.Names}, fresh, nil
}

// forTemplate names what the user asked for in an error of which the engine is to blame, and what to do instead.
func forTemplate(op, ref string, err error) error {
	e, ok := errors.AsType[*snapshot.Error](err)
	if !ok || e.Kind != snapshot.KindUncloneable && e.Kind != snapshot.KindUnsupported {
		return err
	}
	hint := e.Hint
	if e.Kind == snapshot.KindUncloneable {
		hint = fmt.Sprintf("snapd-ctr clone --engine criu %s clones it; snapd-ctr snapshots inspect %s lists all reasons", ref, ref)
		err = e.Err
	}
	return &snapshot.Error{Kind: e.Kind, Op: op, On: ref, Err: err, Hint: hint, Log: snapshot.LogOf(err)}
}

// Templates lists the templates that are there, by the names of their snapshots.
func (l *Local) Templates(ctx context.Context) ([]*Template, error) {
	shims, err := l.cloneShims()
	if err != nil {
		return nil, err
	}
	found := make([][]snapshot.Template, len(shims))
	errs := make([]error, len(shims))
	var wg sync.WaitGroup
	for i, socket := range shims {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, listWait)
			defer cancel()
			found[i], errs[i] = templatesAt(ctx, socket)
		})
	}
	wg.Wait()
	out := []*Template{}
	for _, t := range slices.Concat(found...) {
		named := &Template{Template: t, Names: []string{}}
		if s, err := l.store.Get(t.Snapshot); err == nil {
			named.Names = s.Names
		}
		out = append(out, named)
	}
	slices.SortFunc(out, func(a, b *Template) int {
		return strings.Compare(strings.Join(a.Names, ",")+" "+a.Snapshot, strings.Join(b.Names, ",")+" "+b.Snapshot)
	})
	return out, errors.Join(errs...)
}

// cloneShims returns the sockets of the shims of clones, dead ones too.
func (l *Local) cloneShims() ([]string, error) {
	dir := filepath.Dir(l.paths().Socket(clonesPrefix))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var sockets []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), clonesPrefix) && strings.HasSuffix(e.Name(), ".sock") {
			sockets = append(sockets, filepath.Join(dir, e.Name()))
		}
	}
	return sockets, err
}

// templatesAt asks one shim. One that is gone has none.
func templatesAt(ctx context.Context, socket string) ([]snapshot.Template, error) {
	all, err := shim.Templates(ctx, socket)
	if ctx.Err() == nil && snapshot.KindOf(err) == snapshot.KindUnreachable {
		return nil, nil
	}
	return all, err
}

// RemoveTemplate ends a snapshot's template. A ref that the store does not know may be that of a template whose snapshot
// is gone.
func (l *Local) RemoveTemplate(ctx context.Context, ref string) error {
	id, err := l.store.Resolve(ref)
	if err != nil {
		if id = l.orphaned(ctx, ref); id == "" {
			return err
		}
	}
	client, err := shim.Dial(ctx, l.paths().Socket(groupOf(id)))
	if err != nil && snapshot.KindOf(err) != snapshot.KindUnreachable && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		err = client.RemoveTemplate(ctx, id)
	}
	if err != nil && (client == nil || snapshot.KindOf(err) == snapshot.KindNotFound) {
		return &snapshot.Error{Kind: snapshot.KindNotFound, Op: "template rm", On: ref, Err: errors.New("it has no template"),
			Hint: "snapd-ctr template ls lists them"}
	}
	return err
}

// orphaned finds a template by the id of its snapshot, or a beginning of it.
func (l *Local) orphaned(ctx context.Context, ref string) string {
	all, _ := l.Templates(ctx)
	id := ""
	for _, t := range all {
		digits := strings.TrimPrefix(t.Snapshot, "sha256:")
		if len(ref) < 4 || !strings.HasPrefix(digits, strings.TrimPrefix(ref, "sha256:")) {
			continue
		}
		if id != "" {
			return ""
		}
		id = t.Snapshot
	}
	return id
}

// pinned says whether a snapshot's template is to stay.
func (l *Local) pinned(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	all, err := templatesAt(ctx, l.paths().Socket(groupOf(id)))
	return err == nil && slices.ContainsFunc(all, func(t snapshot.Template) bool { return t.State == snapshot.TemplatePinned })
}

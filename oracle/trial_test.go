package oracle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

// trial compares the clones that the engines make of one program. Its containers and its snapshot have names of their own,
// so that many trials can share a service. When its test ends, they are removed.
type trial struct {
	t          *testing.T
	svc        *api.Local
	name       string
	containers []*snapshot.Container
	report     question // nil where the program does not tell of itself
	refused    error    // why the template engine makes no clone
}

// try runs a program until it answers.
func try(ctx context.Context, t *testing.T, svc *api.Local, r api.RunRequest, answers func(*snapshot.Container) error) *trial {
	t.Helper()
	c, err := svc.Run(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	tr := &trial{t: t, svc: svc, name: r.Name, containers: []*snapshot.Container{c}}
	t.Cleanup(tr.end)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for err = answers(c); err != nil; err = answers(c) {
		if ctx.Err() != nil || !proc.Alive(c.Pid, c.StartTime) {
			t.Fatalf("%v does not answer: %v", c.Args, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return tr
}

// end removes everything.
func (tr *trial) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	apitest.Remove(ctx, tr.t, tr.svc, tr.containers...)
	if err := tr.svc.RemoveSnapshot(ctx, tr.name); err != nil && snapshot.KindOf(err) != snapshot.KindNotFound {
		tr.t.Error(err)
	}
	if _, err := tr.svc.GC(ctx, false); err != nil { // beside the captures of other trials
		tr.t.Error(err)
	}
}

// original looks at the program itself.
func (tr *trial) original() witness {
	tr.t.Helper()
	return look(tr.t, "the original", "", tr.containers[0], tr.report)
}

// clones takes a snapshot and has each engine make a clone of it.
func (tr *trial) clones(ctx context.Context, original witness) []witness {
	t := tr.t
	t.Helper()
	if _, err := tr.svc.Snapshot(ctx, api.SnapshotRequest{Container: original.container.ID, Name: tr.name}); err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	var all []witness
	for i, engine := range engines() {
		name := fmt.Sprintf("%s-clone-%d-by-%s", tr.name, i+1, engine)
		made, err := tr.svc.Clone(ctx, api.CloneRequest{Snapshot: tr.name, Count: 1, Name: name, Engine: engine})
		if engine == snapshot.EngineTemplate && snapshot.KindOf(err) == snapshot.KindUncloneable {
			tr.refused = err
			continue
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
		}
		tr.containers = append(tr.containers, made...)
		all = append(all, settled(original, look(t, name, engine, made[0], tr.report)))
	}
	return all
}

// engines are those whose clones are compared.
func engines() []string {
	if list := os.Getenv("ORACLE_ENGINES"); list != "" {
		return strings.Split(list, ",")
	}
	return []string{snapshot.EngineCRIU, snapshot.EngineTemplate}
}

// compareAll compares the original with each clone, and the clones with the first of them.
func compareAll(t *testing.T, all []witness) {
	t.Helper()
	for i, w := range all[1:] {
		same(t, all[0], w)
		if i > 0 {
			same(t, all[1], w)
		}
	}
	if dir := os.Getenv("ORACLE_KEEP"); dir != "" {
		for _, w := range all {
			name := filepath.Join(dir, w.container.Name)
			if err := os.WriteFile(name, []byte(w.picture.Text()+strings.Join(w.report, "\n")), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
}

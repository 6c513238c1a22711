package oracle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/picture"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// open opens a service of the test's own. At the end its containers are removed.
func open(t *testing.T) *api.Local {
	t.Helper()
	in := testhost.New(t)
	t.Setenv("SNAPD_CTR_SHIM_LINGER", "200ms")
	svc, err := api.OpenLocal(t.Context(), api.Config{Root: in.Root, Run: in.Run, CRIU: in.CRIU, Shim: in.Shim,
		Bridge: in.Bridge, Subnet: in.Subnet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		clear(ctx, t, svc)
		svc.Close()
	})
	return svc
}

// clear removes all containers and snapshots.
func clear(ctx context.Context, t *testing.T, svc *api.Local) {
	t.Helper()
	cs, err := svc.Containers(ctx, true)
	if err != nil {
		t.Error(err)
	}
	for _, c := range cs {
		if t.Failed() {
			var log bytes.Buffer
			_ = svc.Logs(ctx, c.ID, api.LogsRequest{Tail: 20, Stdout: &log, Stderr: &log})
			t.Logf("%s: %s %v, its log:\n%s", c.Name, c.Status, c.Args, log.String())
		}
		if err := svc.Remove(ctx, c.ID, true); err != nil && snapshot.KindOf(err) != snapshot.KindNotFound {
			t.Errorf("remove %s: %v", c.Name, err)
		}
	}
	snaps, err := svc.Snapshots(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, s := range snaps {
		if err := svc.RemoveSnapshot(ctx, s.ID); err != nil {
			t.Error(err)
		}
	}
}

// engines are those whose clones are compared.
func engines() []string {
	if list := os.Getenv("ORACLE_ENGINES"); list != "" {
		return strings.Split(list, ",")
	}
	return []string{snapshot.EngineCRIU, snapshot.EngineTemplate}
}

// seeds are those of the random processes.
func seeds(t *testing.T) []int {
	t.Helper()
	list := os.Getenv("ORACLE_SEEDS")
	if list == "" {
		list = "20"
	}
	from, to, is := strings.Cut(list, "-")
	if !is {
		from, to = "1", list
	}
	first, err1 := strconv.Atoi(from)
	last, err2 := strconv.Atoi(to)
	if err := errors.Join(err1, err2); err != nil || first > last {
		t.Fatalf("ORACLE_SEEDS=%q: %v", list, err)
	}
	var all []int
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

// witness is what is known of one container: how it looks from outside, and what it says.
type witness struct {
	name, engine string // engine is "" for the original
	container    *snapshot.Container
	picture      *picture.Picture
	report       []string
}

// look takes the picture of a container, and asks it for its report where it can give one.
func look(t *testing.T, name, engine string, c *snapshot.Container, report func(*snapshot.Container) (string, error)) witness {
	t.Helper()
	p, err := picture.Of(c.Pid)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 20; try++ { // a child that has just ended
		time.Sleep(20 * time.Millisecond)
		p, err = picture.Of(c.Pid)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	w := witness{name: name, engine: engine, container: c, picture: p}
	if report != nil {
		text, err := report(c)
		if err != nil {
			t.Fatalf("report of %s: %v", name, err)
		}
		w.report = strings.Split(text, "\n")
	}
	return w
}

// compare returns in what two containers differ.
func compare(a, b witness) []picture.Change {
	changes := picture.Changes(a.picture, b.picture)
	for _, l := range a.report {
		if !slices.Contains(b.report, l) {
			changes = append(changes, picture.Change{Sign: '-', Name: "says", From: l})
		}
	}
	for _, l := range b.report {
		if !slices.Contains(a.report, l) {
			changes = append(changes, picture.Change{Sign: '+', Name: "says", To: l})
		}
	}
	return changes
}

// surprises returns in what two containers differ without a known reason.
func surprises(a, b witness) []string {
	var lines []string
	for _, c := range compare(a, b) {
		if surprising(c, a.engine, b.engine) {
			lines = append(lines, c.String())
		}
	}
	return lines
}

// surprising says whether a change between the clones of two engines has no known reason. The reasons are stated from the
// original's point of view: what one engine loses is gained on the way from its clone to that of another.
func surprising(c picture.Change, from, to string) bool {
	list := known(from, to)
	return !explained(c.String(), list) && (from == "" || !explained(c.Reversed().String(), list))
}

// same fails the test when two containers differ in what is not known to differ.
func same(t *testing.T, a, b witness) {
	t.Helper()
	if lines := surprises(a, b); len(lines) > 0 {
		t.Errorf("%s and %s differ:\n  %s", a.name, b.name, strings.Join(lines, "\n  "))
	}
}

// known returns the differences that containers made by two engines may have; "" stands for the original.
func known(from, to string) []difference {
	if from == to {
		return nil
	}
	list := slices.Concat(knownOf(from), knownOf(to))
	if from == "" || to == "" {
		list = append(list, knownOfClones()...)
	}
	return list
}

// settled takes the clone's picture again while it differs from the original's: right after a clone its memory is on its
// way, and its threads return from calls that were interrupted.
func settled(original, w witness) witness {
	deadline := time.Now().Add(3 * time.Second)
	for time.Now().Before(deadline) && len(surprises(original, w)) > 0 {
		time.Sleep(20 * time.Millisecond)
		p, err := picture.Of(w.container.Pid)
		if err != nil {
			break // it has ended: the next question says so
		}
		w.picture = p
	}
	return w
}

// TestOracle has each engine clone random processes. The clones must look like the original and like one another, report
// the same, and find everything in place when they examine themselves.
//
// The template engine may refuse what it has no recipe for, but not most of what there is.
func TestOracle(t *testing.T) {
	svc, rootfs := open(t), chaosRootfs(t)
	refused := 0
	defer func() {
		if n := len(seeds(t)); n >= 6 && refused > n*2/3 {
			t.Errorf("%d of %d processes were refused", refused, n)
		}
	}()
	for _, seed := range seeds(t) {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			defer func() { clear(context.WithoutCancel(ctx), t, svc) }()
			original, err := svc.Run(ctx, api.RunRequest{Name: "original", Rootfs: rootfs, Args: chaosArgs(seed)})
			if err != nil {
				t.Fatal(err)
			}
			if err := answers(ctx, original, func(c *snapshot.Container) error { _, err := ask(c, "ready"); return err }); err != nil {
				t.Fatalf("%v: %v", original.Args, err)
			}
			report := func(c *snapshot.Container) (string, error) { return ask(c, "report") }
			all := []witness{look(t, "the original", "", original, report)}
			all = append(all, clones(ctx, t, svc, all[0], report)...)
			refused += 1 + len(engines()) - len(all)
			compareAll(t, all)
			for _, w := range slices.Backward(all) {
				answer, err := ask(w.container, "check")
				if err != nil {
					t.Errorf("%s does not examine itself: %v", w.name, err)
				}
				for _, line := range strings.Split(answer, "\n") {
					if line != "ok" && !explained(line, known("", w.engine)) {
						t.Errorf("%s finds: %s", w.name, line)
					}
				}
			}
		})
	}
}

// answers waits until a container answers.
func answers(ctx context.Context, c *snapshot.Container, probe func(*snapshot.Container) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := probe(c)
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// clones takes a snapshot of the container "original" and clones it by each engine.
func clones(ctx context.Context, t *testing.T, svc *api.Local, original witness, report func(*snapshot.Container) (string, error)) []witness {
	t.Helper()
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: "original", Name: "snap"}); err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	var all []witness
	for i, engine := range engines() {
		name := fmt.Sprintf("clone-%d-by-%s", i+1, engine)
		made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Name: name, Engine: engine})
		if engine == snapshot.EngineTemplate && snapshot.KindOf(err) == snapshot.KindUncloneable {
			t.Logf("refused: %v", err)
			continue
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
		}
		all = append(all, settled(original, look(t, name, engine, made[0], report)))
	}
	return all
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
			_ = os.WriteFile(filepath.Join(dir, strings.ReplaceAll(w.name, " ", "-")), []byte(w.picture.Text()+strings.Join(w.report, "\n")), 0o600)
		}
	}
}

package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// javaWith is the Java server with a collector of its own.
func javaWith(collector string) program {
	return program{"java-" + collector, []string{"java", "-XX:+Use" + collector, "-Xmx96m", "-cp", "/srv", "Server"}, counterAt("/value")}
}

// TestTemplatePrograms makes twenty clones at once of each program that is one process. All answer, twice, as if each were
// the only one, and the original goes on.
func TestTemplatePrograms(t *testing.T) {
	rootfs := testrootfs.Dir(t, testrootfs.FullName)
	all := []program{programs[0], programs[1], programs[3], programs[5], programs[7],
		javaWith("SerialGC"), javaWith("ParallelGC"), javaWith("G1GC"), javaWith("ZGC"), javaWith("ShenandoahGC"),
		{"shell", []string{"sh", "-c", `n=0; mkfifo /ask /said; exec 3<>/ask 4<>/said; while read -r line <&3; do n=$((n+1)); echo $n >&4; done`}, shell}}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			original, err := svc.Run(ctx, api.RunRequest{Name: p.name, Rootfs: rootfs, Args: p.args})
			if err != nil {
				t.Fatal(err)
			}
			ask := func(c *snapshot.Container, round int) {
				t.Helper()
				if err := eventually(ctx, func() error { return p.probe(ctx, svc, c, round) }); err != nil {
					t.Fatalf("%s does not answer: %v", c.Name, err)
				}
			}
			ask(original, 1)
			if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: p.name, Name: "snap"}); err != nil {
				t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
			}
			clones := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "clone", 20)
			for round := 2; round < 4; round++ {
				for _, c := range clones {
					ask(c, round)
				}
			}
			ask(original, 2)
		})
	}
}

// shell has the shell of a container say how often it was asked.
func shell(ctx context.Context, svc *api.Local, c *snapshot.Container, round int) error {
	out, err := execOutput(ctx, svc, c, "sh", "-c", `test -p /said && echo x > /ask && read -r n < /said && echo $n`)
	if err == nil && out != fmt.Sprint(round) {
		err = fmt.Errorf("it says %q, not %d", out, round)
	}
	return err
}

// TestTemplateFallback asks for clones of what the engine has no recipe for. It says what that is, and where the choice is
// left open CRIU makes the clone, which says why in its record.
func TestTemplateFallback(t *testing.T) {
	rootfs := testrootfs.Dir(t, testrootfs.FullName)
	for _, p := range []struct {
		program
		why string
	}{
		{program{"zombie", []string{"sh", "-c", "true & exec sleep 1000"}, zombies}, " is a zombie"},
		{program{"session", []string{"sh", "-c", "setsid sh -c 'sleep 1000 & :'; exec sleep 1001"}, sessions}, " is in the session "},
		{program{"directory", []string{"sh", "-c", "mkdir /d; cd /d; rmdir /d; sleep 1000 & exec sleep 1001"}, sessions}, "the working directory /d"},
	} {
		t.Run(p.name, func(t *testing.T) {
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			original, err := svc.Run(ctx, api.RunRequest{Name: p.name, Rootfs: rootfs, Args: p.args})
			if err != nil {
				t.Fatal(err)
			}
			if err := eventually(ctx, func() error { return p.probe(ctx, svc, original, 1) }); err != nil {
				t.Fatal(err)
			}
			if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: p.name, Name: "snap"}); err != nil {
				t.Fatal(err)
			}
			_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Engine: snapshot.EngineTemplate})
			if err == nil || !strings.Contains(err.Error(), p.why) || snapshot.KindOf(err) != snapshot.KindUncloneable || snapshot.HintOf(err) == "" {
				t.Errorf("a clone by the engine template: %v (%s)", err, snapshot.HintOf(err))
			}
			made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1})
			if err != nil {
				t.Fatal(err)
			}
			if made[0].Engine != snapshot.EngineCRIU || !strings.Contains(made[0].EngineWhy, p.why) {
				t.Errorf("made by %s, since %q", made[0].Engine, made[0].EngineWhy)
			}
			if err := eventually(ctx, func() error { return p.probe(ctx, svc, made[0], 2) }); err != nil {
				t.Error(err)
			}
		})
	}
}

// zombies finds a child that has ended and is not waited for.
func zombies(ctx context.Context, svc *api.Local, c *snapshot.Container, _ int) error {
	out, err := execOutput(ctx, svc, c, "sh", "-c", "grep -l '^State:.*Z' /proc/[0-9]*/status")
	if err == nil && len(strings.Fields(out)) != 1 {
		err = fmt.Errorf("zombies: %q", out)
	}
	return err
}

// sessions finds two processes that sleep.
func sessions(ctx context.Context, svc *api.Local, c *snapshot.Container, _ int) error {
	out, err := execOutput(ctx, svc, c, "sh", "-c", "for p in /proc/[0-9]*; do cut -d ' ' -f 2,4,6 $p/stat; done | grep sleep")
	if err == nil && len(strings.Fields(out)) != 6 {
		err = fmt.Errorf("processes: %q", out)
	}
	return err
}

// TestTemplateFilters has programs under seccomp filters that forbid what a clone has to do once the filter is there. The
// engine sees that beforehand: no clone dies of it.
func TestTemplateFilters(t *testing.T) {
	rootfs := compiled(t, "strict")
	for _, args := range [][]string{{"/strict", "kill"}, {"/strict", "errno"}, {"/strict", "kill", "munmap"}, {"/strict", "errno", "munmap"}} {
		t.Run(strings.Join(args[1:], " "), func(t *testing.T) {
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			original, err := svc.Run(ctx, api.RunRequest{Name: "original", Rootfs: rootfs, Args: args})
			if err != nil {
				t.Fatal(err)
			}
			if err := logged(ctx, svc, original, "tick"); err != nil {
				t.Fatal(err)
			}
			if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: original.ID, Name: "snap"}); err != nil {
				t.Fatal(err)
			}
			_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Engine: snapshot.EngineTemplate})
			if err == nil || !strings.Contains(err.Error(), "a seccomp filter that forbids") {
				t.Errorf("by a template: %v", err)
			}
			made, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1})
			if err != nil {
				t.Fatal(err)
			}
			if made[0].Engine != snapshot.EngineCRIU || !strings.Contains(made[0].EngineWhy, "seccomp") {
				t.Errorf("made by %s, since %q", made[0].Engine, made[0].EngineWhy)
			}
			if err := logged(ctx, svc, made[0], "tick"); err != nil {
				t.Error(err)
			}
		})
	}
}

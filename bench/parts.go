package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/snapd-ctr/snapd-ctr/bench/baseline"
	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

type bench struct {
	options
	dir     string
	cli     string
	svc     *api.Local
	runc    baseline.Runc
	facts   []string
	figures []figure
	notes   []string

	server baseline.Container // runc's, checkpointed
}

const (
	shellName  = "bench-shell"
	pythonName = "bench-python"
	port       = "8080"
)

var pythonArgs = []string{"python3", "/srv/server.py", "--mb", "150"}

// shell compares clones of the smallest container there is.
func (b *bench) shell(ctx context.Context) error {
	args := []string{"sh", "-c", "while :; do sleep 1000; done"}
	if _, err := b.svc.Run(ctx, api.RunRequest{Name: shellName, Rootfs: b.busybox, Args: args}); err != nil {
		return err
	}
	// One that has reached its sleep: both are captured in the same state.
	if _, err := b.svc.Snapshot(ctx, api.SnapshotRequest{Container: shellName, Name: shellName}); err != nil {
		return err
	}
	theirs, err := b.runc.Run(ctx, shellName, b.busybox, args, func(context.Context, int) error { return nil })
	if err != nil {
		return err
	}
	if _, err := b.runc.Checkpoint(ctx, theirs); err != nil {
		return err
	}
	shim, cli, restore := &series{Name: "clone, at the shim"}, &series{Name: "clone, whole command"}, &series{Name: "runc restore"}
	for i := range b.rounds {
		if err := b.cloneOnce(ctx, shellName, shim, nil); err != nil {
			return err
		}
		if err := b.cloneCommand(ctx, shellName, cli); err != nil {
			return err
		}
		if err := b.restoreOnce(ctx, theirs, fmt.Sprintf("shell-%d", i), restore); err != nil {
			return err
		}
	}
	b.figures = append(b.figures,
		figure{What: "clone of a shell, request → first instruction / runc restore", Ours: shim, Theirs: restore, Must: 4, Aim: 10},
		figure{What: "the same, whole command `snapd-ctr clone`", Ours: cli, Theirs: restore})
	return b.runc.Delete(ctx, shellName)
}

// python3 compares captures and clones of a Python server that holds 150 MB.
func (b *bench) python3(ctx context.Context) error {
	if err := b.servers(ctx); err != nil {
		return err
	}
	return b.measure(ctx)
}

// prepare makes what the burst needs.
func (b *bench) prepare(ctx context.Context) error {
	if err := b.servers(ctx); err != nil {
		return err
	}
	if _, err := b.svc.Snapshot(ctx, api.SnapshotRequest{Container: pythonName, Name: pythonName}); err != nil {
		return err
	}
	_, err := b.runc.Checkpoint(ctx, b.server)
	return err
}

// servers starts the Python server, ours and runc's.
func (b *bench) servers(ctx context.Context) error {
	ours, err := b.svc.Run(ctx, api.RunRequest{Name: pythonName, Rootfs: b.python, Args: pythonArgs})
	if err != nil {
		return err
	}
	if err := answers(ctx, ours.Network.Address.String(), time.Minute); err != nil {
		return err
	}
	b.server, err = b.runc.Run(ctx, pythonName, b.python, pythonArgs, baseline.Listens(8080))
	if err != nil {
		return err
	}
	return nil
}

func (b *bench) measure(ctx context.Context) error {
	frozen, checkpoint := &series{Name: "frozen"}, &series{Name: "runc checkpoint --leave-running"}
	for i := range b.rounds {
		got, err := b.svc.Snapshot(ctx, api.SnapshotRequest{Container: pythonName, Name: pythonName, Replace: true,
			Ready: "http://:" + port + "/healthz", Warm: 3})
		if err != nil {
			return err
		}
		frozen.add(got.FrozenMS)
		took, err := b.runc.Checkpoint(ctx, b.server)
		if err != nil {
			return err
		}
		checkpoint.add(millis(took))
		if i == b.rounds-1 {
			m := got.Snapshot.Config.Memory
			b.notes = append(b.notes, fmt.Sprintf("the Python server's snapshot: %d pages, of which %d of zeros are not stored; %d MB stored",
				m.Pages, m.ZeroPages, m.Bytes>>20))
		} else if _, err := b.svc.GC(ctx, false); err != nil {
			return err
		}
	}
	shim, cli, first, restore := &series{Name: "clone, at the shim"}, &series{Name: "clone, whole command"},
		&series{Name: "first response"}, &series{Name: "runc restore"}
	for i := range b.rounds {
		if err := b.cloneOnce(ctx, pythonName, shim, first); err != nil {
			return err
		}
		if err := b.cloneCommand(ctx, pythonName, cli); err != nil {
			return err
		}
		if err := b.restoreOnce(ctx, b.server, fmt.Sprintf("python-%d", i), restore); err != nil {
			return err
		}
	}
	b.figures = append(b.figures,
		figure{What: "clone of the Python server, request → first instruction / runc restore", Ours: shim, Theirs: restore, Must: 6, Aim: 15},
		figure{What: "the same, whole command `snapd-ctr clone`", Ours: cli, Theirs: restore},
		figure{What: "clone request → first HTTP response", Ours: first, MustMS: 80, AimMS: 40},
		figure{What: "frozen time of a snapshot of the Python server / runc checkpoint", Ours: frozen, Theirs: checkpoint, Must: 2, Aim: 5})
	return nil
}

// burst64 compares many clones at once.
func (b *bench) burst64(ctx context.Context) error {
	running, answered, restored := &series{Name: "all running"}, &series{Name: "all answered"}, &series{Name: "runc restore"}
	var private []float64
	for round := range b.bursts {
		start := time.Now()
		clones, err := b.svc.Clone(ctx, api.CloneRequest{Snapshot: pythonName, Count: b.burst})
		if err != nil {
			return err
		}
		running.add(millis(time.Since(start)))
		if err := all(b.burst, func(i int) error { return answers(ctx, clones[i].Network.Address.String(), time.Minute) }); err != nil {
			return err
		}
		answered.add(millis(time.Since(start)))
		for _, c := range clones {
			n, err := proc.PrivateBytes(c.Pid)
			if err != nil {
				return err
			}
			private = append(private, float64(n)/(1<<20))
		}
		if err := all(b.burst, func(i int) error { return b.svc.Remove(ctx, clones[i].ID, true) }); err != nil {
			return err
		}
		start = time.Now()
		if err := all(b.burst, func(i int) error {
			_, err := b.runc.Restore(ctx, b.server, fmt.Sprintf("burst-%d-%d", round, i))
			return err
		}); err != nil {
			return err
		}
		restored.add(millis(time.Since(start)))
		if err := all(b.burst, func(i int) error { return b.runc.Delete(ctx, fmt.Sprintf("burst-%d-%d", round, i)) }); err != nil {
			return err
		}
	}
	b.figures = append(b.figures,
		figure{What: fmt.Sprintf("%d clones at once, all running / %d runc restore in parallel", b.burst, b.burst), Ours: running, Theirs: restored, Must: 5, Aim: 15},
		figure{What: "the same, until every clone has answered over HTTP", Ours: answered, Theirs: restored})
	p := &series{Values: private}
	b.notes = append(b.notes, fmt.Sprintf("private memory of a clone when all had answered: median %.0f MB; the rest of its memory is brought in the background", p.median()))
	return b.runc.Delete(ctx, b.server.Name)
}

// all does n things at once.
func all(n int, do func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// cloneOnce clones through the library; first, if not nil, gets the time until the clone's first HTTP response.
func (b *bench) cloneOnce(ctx context.Context, name string, shim, first *series) error {
	start := time.Now()
	clones, err := b.svc.Clone(ctx, api.CloneRequest{Snapshot: name, Count: 1})
	if err != nil {
		return err
	}
	shim.add(clones[0].CloneMS)
	if first != nil {
		if err := answers(ctx, clones[0].Network.Address.String(), time.Minute); err != nil {
			return err
		}
		first.add(millis(time.Since(start)))
	}
	return b.svc.Remove(ctx, clones[0].ID, true)
}

// cloneCommand times the command line as a user would.
func (b *bench) cloneCommand(ctx context.Context, name string, s *series) error {
	const clone = "bench-cli"
	c := exec.CommandContext(ctx, b.cli, "clone", name, "--name", clone)
	c.Env = append(os.Environ(), "SNAPD_CTR_ROOT="+b.dir+"/root", "SNAPD_CTR_RUN="+b.dir+"/run", "SNAPD_CTR_CRIU="+b.criu,
		"SNAPD_CTR_BRIDGE=snapdbench0", "SNAPD_CTR_SUBNET=10.88.192.0/20")
	start := time.Now()
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", c, err, out)
	}
	s.add(millis(time.Since(start)))
	return b.svc.Remove(ctx, clone, true)
}

func (b *bench) restoreOnce(ctx context.Context, c baseline.Container, name string, s *series) error {
	took, err := b.runc.Restore(ctx, c, name)
	if err != nil {
		return err
	}
	s.add(millis(took))
	return b.runc.Delete(ctx, name)
}

// answers waits until the server at the address answers.
func answers(ctx context.Context, host string, limit time.Duration) error {
	client := &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.Now().Add(limit)
	for {
		resp, err := client.Get("http://" + host + ":" + port + "/healthz")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not answer: %w", host, err)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// cleanUp removes every container, ours and runc's.
func (b *bench) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	errs = append(errs, b.runc.DeleteAll(ctx))
	cs, err := b.svc.Containers(ctx, true)
	errs = append(errs, err)
	for _, c := range cs {
		if err := b.svc.Remove(ctx, c.ID, true); err != nil && snapshot.KindOf(err) != snapshot.KindNotFound {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

package api_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/runtime"
)

// TestOtherRuntimes captures a container of each runtime that is not ours and lets clones of it count on.
func TestOtherRuntimes(t *testing.T) {
	for _, r := range []struct {
		name  string
		start func(t *testing.T) (ref string)
		want  wanted
	}{
		{"docker", func(t *testing.T) string { return startDocker(t, "-m", "64m", "--pids-limit", "50", "-e", "BIND=yes") },
			wanted{mode: "bridge", logs: true, alias: true, limits: snapshot.Limits{MemoryBytes: 64 << 20, Pids: 50}}},
		{"docker-terminal", func(t *testing.T) string { return startDocker(t, "-t") }, wanted{mode: "bridge", logs: true}},
		{"podman-crun", func(t *testing.T) string { return startPodman(t, "crun", "-m", "64m") },
			wanted{mode: "none", logs: true, limits: snapshot.Limits{MemoryBytes: 64 << 20, Pids: 2048}}},
		{"podman-runc", func(t *testing.T) string { return startPodman(t, "runc") },
			wanted{mode: "none", logs: true, limits: snapshot.Limits{Pids: 2048}}},
		{"containerd", startContainerd, wanted{mode: "none", logs: true}},
		{"runc", func(t *testing.T) string { return startRunc(t, testengine.Quiet, withSysctl) },
			wanted{mode: "none", sysctl: map[string]string{"net/ipv4/ip_unprivileged_port_start": "77"}}},
		{"runc-file", func(t *testing.T) string { return startRunc(t, "</dev/null >"+t.TempDir()+"/log 2>&1", nil) },
			wanted{mode: "none", logs: true}},
		{"runc-terminal", runcOnTerminal, wanted{mode: "none", logs: true}},
	} {
		t.Run(r.name, func(t *testing.T) {
			svc, _ := open(t)
			captureForeign(t, svc, r.start(t), r.want)
		})
	}
}

func withSysctl(s *specs.Spec) {
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "77"}
}

// wanted is what clones of a container must be like.
type wanted struct {
	mode   string
	logs   bool
	limits snapshot.Limits
	alias  bool // it answers on the original's address as well
	sysctl map[string]string
}

func captureForeign(t *testing.T, svc *api.Local, ref string, want wanted) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	name, id, err := runtime.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	src, err := runtime.All()[name].Find(ctx, id)
	if err != nil {
		t.Fatalf("%v (%s)", err, snapshot.HintOf(err))
	}
	before := countedTo(t, src.Pid, 5)
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Runtime: ref, Name: "first"}); err != nil {
		t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	after := countedTo(t, src.Pid, before)
	clones := cloneTwo(ctx, t, svc, "first")
	countedTo(t, src.Pid, after+5)
	for _, c := range clones {
		countedTo(t, c.Pid, after+5)
		checkForeignClone(ctx, t, svc, c, want)
		if !want.logs {
			continue
		}
		if first := firstLogged(ctx, t, svc, c); first < before || first > after+1 {
			t.Errorf("%s goes on with %d, having stood between %d and %d", c.Name, first, before, after)
		}
	}
}

// countedTo waits until the container of the process has counted to least, and returns what it counted to.
func countedTo(t *testing.T, pid, least int) (n int) {
	t.Helper()
	path := fmt.Sprintf("/proc/%d/root/www/count", pid)
	err := eventually(t.Context(), func() error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n < least {
			err = fmt.Errorf("it has counted to %d, not to %d", n, least)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func checkForeignClone(ctx context.Context, t *testing.T, svc *api.Local, c *snapshot.Container, want wanted) {
	t.Helper()
	if out, err := execOutput(ctx, svc, c, "hostname"); err != nil || out != c.Name {
		t.Errorf("exec in %s: hostname %q, %v", c.Name, out, err)
	}
	if c.Network.Mode != want.mode || c.Limits != want.limits {
		t.Errorf("%s: network %q, limits %+v; want %q, %+v", c.Name, c.Network.Mode, c.Limits, want.mode, want.limits)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if err != nil || !strings.Contains(string(b), c.Cgroup) {
		t.Errorf("%s is in the cgroups %s (%v), not %s", c.Name, b, err, c.Cgroup)
	}
	for name, value := range want.sysctl {
		if out, err := execOutput(ctx, svc, c, "cat", "/proc/sys/"+name); err != nil || out != value {
			t.Errorf("%s: %s is %q, %v", c.Name, name, out, err)
		}
	}
	if got := len(c.Network.Aliases) > 0; got != want.alias {
		t.Errorf("%s has the aliases %v", c.Name, c.Network.Aliases)
	}
	if want.mode != "bridge" {
		return
	}
	if body, err := get(c, "/count"); err != nil || strings.Trim(body, "0123456789\n") != "" {
		t.Errorf("%s serves %q, %v", c.Name, body, err)
	}
}

// firstLogged returns the first number that a clone said.
func firstLogged(ctx context.Context, t *testing.T, svc *api.Local, c *snapshot.Container) (n int) {
	t.Helper()
	err := eventually(ctx, func() error {
		var log bytes.Buffer
		if err := svc.Logs(ctx, c.ID, api.LogsRequest{Tail: -1, Stdout: &log, Stderr: &log}); err != nil {
			return err
		}
		line, _, _ := strings.Cut(log.String(), "\n")
		var err error
		n, err = strconv.Atoi(strings.TrimSpace(line))
		return err
	})
	if err != nil {
		t.Errorf("log of %s: %v", c.Name, err)
	}
	return n
}

package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

func open(t *testing.T) (*api.Local, *testhost.Installation) {
	t.Helper()
	return apitest.Open(t)
}

// program is a real program and how its answers are checked. probe asks the instance at an address; what it returns must
// be the same, or go on, in every clone.
type program struct {
	name  string
	args  []string
	probe func(ctx context.Context, svc *api.Local, c *snapshot.Container, round int) error
}

var programs = []program{
	{"python-numpy-threads", []string{"python3", "/srv/server.py", "--mb", "32"}, counterAt("/value")},
	{"node", []string{"node", "/srv/server.mjs"}, counterAt("/value")},
	{"java", []string{"java", "-cp", "/srv", "Server"}, counterAt("/value")},
	{"go", []string{"/srv/goserver"}, counterAt("/value")},
	{"nginx", []string{"nginx", "-c", "/srv/nginx.conf"}, page},
	{"redis", []string{"redis-server", "/srv/redis.conf"}, redis},
	{"shell-with-children", []string{"sh", "/srv/children.sh"}, children},
	{"ruby", []string{"ruby", "/srv/server.rb"}, counterAt("/value")},
}

// TestPrograms takes each program through its whole life: run, warm, snapshot, five clones that answer, an original
// that still answers, and a clone of a clone.
func TestPrograms(t *testing.T) {
	rootfs := testrootfs.Dir(t, testrootfs.FullName)
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
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
			if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: p.name, Name: "first"}); err != nil {
				t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
			}
			clones, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "first", Count: 5, Name: "clone"})
			if err != nil {
				t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
			}
			for _, c := range clones {
				ask(c, 2)
			}
			ask(original, 2)
			if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: clones[0].ID, Name: "second"}); err != nil {
				t.Fatalf("snapshot of a clone: %v\n%s", err, snapshot.LogOf(err))
			}
			again, err := svc.Clone(ctx, api.CloneRequest{Snapshot: "second", Count: 1, Name: "grandchild"})
			if err != nil {
				t.Fatalf("clone of a clone: %v\n%s", err, snapshot.LogOf(err))
			}
			ask(again[0], 3)
			ask(clones[0], 3)
		})
	}
}

// eventually tries until it works or half a minute has passed.
func eventually(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func get(c *snapshot.Container, path string) (string, error) {
	resp, err := client.Get("http://" + net.JoinHostPort(c.Network.Address.String(), "8080") + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// values keeps what the original computed: every clone must compute the same.
var values = make(map[string]float64)

// counterAt asks a server that counts its requests: the counter says that the memory is that of the snapshot and that it
// is the clone's own.
func counterAt(path string) func(context.Context, *api.Local, *snapshot.Container, int) error {
	return func(_ context.Context, _ *api.Local, c *snapshot.Container, round int) error {
		body, err := get(c, path)
		if err != nil {
			return err
		}
		var got struct{ Counter, Value float64 }
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			return fmt.Errorf("%q: %w", body, err)
		}
		if got.Counter != float64(round) {
			return fmt.Errorf("counter is %v, want %d", got.Counter, round)
		}
		key := strings.Join(c.Args, " ")
		if round == 1 {
			values[key] = got.Value
		}
		if got.Value != values[key] {
			return fmt.Errorf("value is %v, the original's is %v", got.Value, values[key])
		}
		return nil
	}
}

func page(_ context.Context, _ *api.Local, c *snapshot.Container, _ int) error {
	body, err := get(c, "/")
	if err == nil && !strings.Contains(body, "hello from a container") {
		err = fmt.Errorf("not the page: %q", body)
	}
	return err
}

// redis counts up a key: its data is intact and each clone's own.
func redis(_ context.Context, _ *api.Local, c *snapshot.Container, round int) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(c.Network.Address.String(), "6379"), 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "INCR rounds\r\n"); err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := conn.Read(b)
	if want := fmt.Sprintf(":%d\r\n", round); err == nil && string(b[:n]) != want {
		err = fmt.Errorf("INCR gives %q, want %q", b[:n], want)
	}
	return err
}

// children checks that the processes below the shell go on: the file that one of them counts in grows.
func children(ctx context.Context, svc *api.Local, c *snapshot.Container, _ int) error {
	before, err := execOutput(ctx, svc, c, "cat", "/tmp/children/one")
	if err != nil {
		return err
	}
	for range 100 {
		after, err := execOutput(ctx, svc, c, "cat", "/tmp/children/one")
		if err != nil {
			return err
		}
		if after != before {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("the child stands still at %s", before)
}

// execOutput runs a program in a container and returns what it wrote.
func execOutput(ctx context.Context, svc *api.Local, c *snapshot.Container, args ...string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	status, err := svc.Exec(ctx, c.ID, api.ExecRequest{Args: args, Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(r)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: status %d: %s", args[0], status, out)
	}
	return strings.TrimSpace(string(out)), err
}

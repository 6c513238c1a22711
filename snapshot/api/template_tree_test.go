package api_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// prefork is a Python server whose first process opens the socket and forks three others that serve it. They count requests
// in memory that they share.
const prefork = `
import http.server, mmap, os, socket, struct
shared = mmap.mmap(-1, 4096)
s = socket.create_server(("0.0.0.0", 8080), backlog=64)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        n = struct.unpack("Q", shared[:8])[0] + 1
        shared[:8] = struct.pack("Q", n)
        body = ("%d %d\n" % (n, os.getpid())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
for i in range(3):
    if os.fork() == 0:
        server = http.server.HTTPServer(("0.0.0.0", 8080), Handler, bind_and_activate=False)
        server.socket = s
        server.serve_forever()
while True:
    os.wait()
`

// pool is a Python server with a pool of processes: semaphores in deleted files that all have mapped, pipes, threads.
const pool = `
import http.server, multiprocessing
workers = multiprocessing.get_context("fork").Pool(3)
queue, count = multiprocessing.Queue(), multiprocessing.Value("i", 0)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with count.get_lock():
            count.value += 1
        queue.put(sum(workers.map(abs, range(-9, 10))))
        body = ("%d %d\n" % (count.value, queue.get())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
`

// cluster is a Node server that is several processes: they are executed, have many threads, and are handed connections.
const cluster = `
const cluster = require('cluster'), http = require('http');
let count = 0;
if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++)
    cluster.fork().on('message', function () { this.send(++count); });
} else {
  http.createServer((request, response) => {
    process.once('message', n => response.end(n + ' ' + process.pid));
    process.send('count');
  }).listen(8080);
}
`

// preforked asks the server and checks how often it says that it has been asked.
func preforked(_ context.Context, _ *api.Local, c *snapshot.Container, round int) error {
	body, err := get(c, "/")
	if err == nil && !strings.HasPrefix(body, fmt.Sprintf("%d ", round)) {
		err = fmt.Errorf("it says %q, not %d", body, round)
	}
	return err
}

// TestTemplateTrees makes ten clones at once of programs that are several processes. All answer as if each were the only one,
// a clone of a clone does, and the original goes on.
func TestTemplateTrees(t *testing.T) {
	rootfs := testrootfs.Dir(t, testrootfs.FullName)
	for _, p := range []program{programs[4], {"python-prefork", []string{"python3", "-c", prefork}, preforked},
		{"python-pool", []string{"python3", "-c", pool}, preforked},
		{"node-cluster", []string{"sh", "-c", "cat > /tmp/cluster.js << 'END'\n" + cluster + "END\nnode /tmp/cluster.js; true"}, preforked},
		{"shell-with-children", []string{"sh", "/srv/children.sh", "/tmp/children", "0.5"}, children},
		{"shell-and-server", []string{"sh", "-c", "redis-server /srv/redis.conf; true"}, redis}} {
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
			first := treeSnapshot(ctx, t, svc, original, "first")
			clones := clonesBy(ctx, t, svc, snapshot.EngineTemplate, first, "clone", 10)
			for round := 2; round < 4; round++ {
				for _, c := range clones {
					ask(c, round)
				}
			}
			second := treeSnapshot(ctx, t, svc, clones[0], "second")
			ask(clonesBy(ctx, t, svc, snapshot.EngineTemplate, second, "grandchild", 1)[0], 4)
			ask(clones[0], 4)
			ask(original, 2)
		})
	}
}

// treeSnapshot takes a snapshot that a template can be made of. A shell runs programs all the time, and one may be about to
// start or to be waited for.
func treeSnapshot(ctx context.Context, t *testing.T, svc *api.Local, c *snapshot.Container, prefix string) string {
	t.Helper()
	for i := 1; ; i++ {
		name := prefix + strconv.Itoa(i)
		if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: c.ID, Name: name}); err != nil {
			t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
		}
		s, err := svc.InspectSnapshot(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		var why []string
		for _, v := range s.Snapshot.Config.Engines {
			if v.Engine == snapshot.EngineTemplate {
				why = v.Why
			}
		}
		if len(why) == 0 {
			return name
		}
		if i == 5 {
			t.Fatal(why)
		}
	}
}

// TestTemplateNginx has clones of nginx live: a worker that is killed is replaced, and a reload replaces all. No other
// clone notices.
func TestTemplateNginx(t *testing.T) {
	svc, _ := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	original, err := svc.Run(ctx, api.RunRequest{Name: "nginx", Rootfs: testrootfs.Dir(t, testrootfs.FullName), Args: programs[4].args})
	if err != nil {
		t.Fatal(err)
	}
	if err := eventually(ctx, func() error { return page(ctx, svc, original, 1) }); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: original.ID, Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	clones := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "clone", 3)
	before := workers(t, clones[0])
	if len(before) != 2 {
		t.Fatalf("nginx has the workers %v", before)
	}
	reloaded, untouched := workers(t, clones[1]), workers(t, clones[2])
	killed := before[0]
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	replaced := func(c *snapshot.Container, gone ...int) error {
		now := workers(t, c)
		if len(now) != 2 || slices.ContainsFunc(now, func(w int) bool { return slices.Contains(gone, w) }) {
			return fmt.Errorf("%s has the workers %v", c.Name, now)
		}
		return nil
	}
	if err := eventually(ctx, func() error { return replaced(clones[0], killed) }); err != nil {
		t.Errorf("worker %d was killed: %v", killed, err)
	}
	if out, err := execOutput(ctx, svc, clones[1], "nginx", "-c", "/srv/nginx.conf", "-s", "reload"); err != nil {
		t.Fatalf("reload: %v: %s", err, out)
	}
	if err := eventually(ctx, func() error { return replaced(clones[1], reloaded...) }); err != nil {
		t.Errorf("reload: %v", err)
	}
	for _, c := range append(clones, original) {
		for range 8 {
			if err := eventually(ctx, func() error { return page(ctx, svc, c, 1) }); err != nil {
				t.Errorf("%s does not answer: %v", c.Name, err)
			}
		}
	}
	if now := workers(t, clones[2]); !slices.Equal(now, untouched) {
		t.Errorf("the workers of another clone were %v and are %v", untouched, now)
	}
}

// workers returns the processes below a container's first one, as the host knows them: in a clone, as after a restore, the
// lowest free id is the next.
func workers(t *testing.T, c *snapshot.Container) []int {
	t.Helper()
	below, err := proc.Children(c.Pid)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(below)
	return below
}

// TestTemplateBirth has a process of a clone be killed, or fail, before the clone is complete. The request says so, and
// nothing of the clone is left.
func TestTemplateBirth(t *testing.T) {
	for action, says := range map[string]string{"kill": "one of its processes ended before it was complete", "fail": " (sleep): failpoint"} {
		t.Run(action, func(t *testing.T) {
			svc, _ := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			original, err := svc.Run(ctx, api.RunRequest{Name: "original", Rootfs: testrootfs.Busybox(t),
				Args: []string{"sh", "-c", "sleep 98701 & sleep 98702 & sleep 98703 & echo ready; wait"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := logged(ctx, svc, original, "ready"); err != nil {
				t.Fatal(err)
			}
			if _, err := svc.Snapshot(ctx, api.SnapshotRequest{Container: original.ID, Name: "snap"}); err != nil {
				t.Fatal(err)
			}
			if err := svc.Remove(ctx, original.ID, true); err != nil {
				t.Fatal(err)
			}
			t.Setenv(fault.Variable, "template."+action+"=error")
			for range 3 {
				_, err = svc.Clone(ctx, api.CloneRequest{Snapshot: "snap", Count: 1, Engine: snapshot.EngineTemplate})
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Fatalf("a clone whose process is to %s: %v", action, err)
				}
			}
			if n := runningOf(ctx, t, svc, ""); n != 0 {
				t.Errorf("%d containers are left", n)
			}
			if left := sleepers(t); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
			}
		})
	}
}

// sleepers returns the processes of TestTemplateBirth.
func sleepers(t *testing.T) (left []string) {
	t.Helper()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if b, err := os.ReadFile("/proc/" + d.Name() + "/cmdline"); err == nil && strings.HasPrefix(string(b), "sleep\x009870") {
			left = append(left, d.Name())
		}
	}
	return left
}

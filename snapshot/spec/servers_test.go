package spec

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestRunServers starts real servers under the filter and asks each something.
func TestRunServers(t *testing.T) {
	for name, server := range map[string]struct {
		args  []string
		files map[string]string // below /srv
		ask   func(ctx context.Context, address string) (string, error)
		want  string
	}{
		"python": {[]string{"/usr/bin/python3", "/srv/server.py", "PORT"}, map[string]string{"server.py": pythonServer}, get, "python 100 1"},
		"node":   {[]string{"node", "/srv/server.js", "PORT"}, map[string]string{"server.js": nodeServer}, get, "node 3 hello"},
		"java":   {[]string{"java", "-Xmx256m", "/srv/Server.java", "PORT"}, map[string]string{"Server.java": javaServer}, get, "java 8"},
		"nginx":  {[]string{"nginx", "-c", "/srv/nginx.conf"}, map[string]string{"nginx.conf": nginxConfig, "page/index.html": "from nginx"}, get, "from nginx"},
		"redis":  {[]string{"redis-server", "--port", "PORT", "--save", "", "--dir", "/tmp", "--io-threads", "2"}, nil, askRedis, "+OK\r\n$5\r\nvalue\r\n"},
		"go":     {[]string{"/srv/server", "PORT"}, map[string]string{"server.go": goServer}, get, "go 64"},
	} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			root, volumes := debian(t)
			for file, body := range server.files {
				to := filepath.Join(root, "srv", file)
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(to, []byte(strings.ReplaceAll(body, "PORT", port)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if name == "go" {
				build(t, filepath.Join(root, "srv"))
			}
			var args []string
			for _, a := range server.args {
				args = append(args, strings.ReplaceAll(a, "PORT", port))
			}
			s := mustNew(t, Options{Args: args, Rootfs: root, Volumes: volumes, HostNetwork: true, Hostname: name, Seccomp: true,
				Limits: snapshot.Limits{MemoryBytes: 1 << 30, Pids: 200}, CgroupPath: "/spec-test-" + snapshot.NewID()[:8]})
			if got := serveAndAsk(t, s, "127.0.0.1:"+port, server.ask); got != server.want {
				t.Errorf("it answers %q, want %q", got, server.want)
			}
		})
	}
}

// serveAndAsk runs a server's container until it has answered, then kills it.
func serveAndAsk(t *testing.T, s *specs.Spec, address string, ask func(context.Context, string) (string, error)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := prepare(t, s)
	var log bytes.Buffer
	c := r.command(ctx, "run", "-b", r.bundle, r.id)
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		answer, err := ask(ctx, address)
		if err == nil {
			_ = r.command(ctx, "kill", r.id, "KILL").Run()
			t.Logf("ended: %v", <-ended)
			return answer
		}
		select {
		case failed := <-ended:
			t.Fatalf("the server ended: %v\n%s", failed, log.String())
		case <-ctx.Done():
			_ = r.command(context.Background(), "kill", r.id, "KILL").Run()
			t.Logf("ended: %v", <-ended)
			t.Fatalf("no answer: %v\n%s", err, log.String())
		case <-again.C:
		}
	}
}

func get(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func askRedis(ctx context.Context, address string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "SET key value\r\nGET key\r\n"); err != nil {
		return "", err
	}
	answer := make([]byte, len("+OK\r\n$5\r\nvalue\r\n"))
	_, err = io.ReadFull(conn, answer)
	return string(answer), err
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func build(t *testing.T, dir string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", "build", "-o", "server", "server.go")
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

package testrootfs

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBusyboxRunsAShell(t *testing.T) {
	cmd := inside(t, Busybox(t), "/bin/sh", "-c", "echo $((6 * 7)) && ls /srv")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.Fields(string(out)); got[0] != "42" || !strings.Contains(string(out), "children.sh") {
		t.Errorf("got %q", out)
	}
}

func TestDirIsStable(t *testing.T) {
	a, b := Busybox(t), Dir(t, BusyboxName)
	if a != b {
		t.Errorf("two calls gave %s and %s", a, b)
	}
}

// Every HTTP program of the demo runs in the full root file system, says that it is ready, counts, and computes the
// same value whenever it is asked.
func TestServers(t *testing.T) {
	root := Dir(t, FullName)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"python", []string{"python3", "/srv/server.py", "--mb", "16", "--port", "PORT"}},
		{"node", []string{"node", "/srv/server.mjs"}},
		{"java", []string{"java", "-Xmx128m", "-XX:-UsePerfData", "-cp", "/srv", "Server"}},
		{"go", []string{"/srv/goserver"}},
		{"ruby", []string{"ruby", "/srv/server.rb"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			port := freePort(t)
			for i, a := range c.args {
				c.args[i] = strings.ReplaceAll(a, "PORT", port)
			}
			cmd := inside(t, root, c.args...)
			cmd.Env = append(cmd.Env, "PORT="+port, "MB=16")
			start(t, cmd, "ready")

			var first, second struct{ Counter, Value int64 }
			get(t, port, "/healthz", &struct{}{})
			get(t, port, "/value", &first)
			get(t, port, "/value", &second)
			if first.Counter != 1 || second.Counter != 2 {
				t.Errorf("the counter went %d, %d; want 1, 2", first.Counter, second.Counter)
			}
			if first.Value == 0 || first.Value != second.Value {
				t.Errorf("the value went %d, %d; want one that stays", first.Value, second.Value)
			}
		})
	}
}

func TestChildrenCount(t *testing.T) {
	cmd := inside(t, Busybox(t), "/srv/children.sh", "/tmp/children", "0.01")
	start(t, cmd, "ready")
	// Its /tmp is a tmpfs in its own mount namespace.
	file := fmt.Sprintf("/proc/%d/root/tmp/children/one", cmd.Process.Pid)
	reached := func(n int) func() bool {
		return func() bool {
			b, _ := os.ReadFile(file)
			got, err := strconv.Atoi(strings.TrimSpace(string(b)))
			return err == nil && got >= n
		}
	}
	eventually(t, "the child to count to 3", reached(3))
}

func TestNginxAndRedis(t *testing.T) {
	root := Dir(t, FullName)
	for _, args := range [][]string{
		{"nginx", "-t", "-q", "-c", "/srv/nginx.conf"},
		{"redis-server", "--version"},
	} {
		if out, err := inside(t, root, args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	// The other addresses are taken or not; redis is asked on a port of its own.
	port := freePort(t)
	start(t, inside(t, root, "redis-server", "/srv/redis.conf", "--port", port), "Ready to accept connections")
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "SET k v\r\nGET k\r\n")
	lines := bufio.NewScanner(conn)
	var got []string
	for len(got) < 3 && lines.Scan() {
		got = append(got, lines.Text())
	}
	if strings.Join(got, " ") != "+OK $1 v" {
		t.Errorf("redis answered %q", got)
	}
}

// inside returns a command that runs args in root, with private mounts and processes that end with it.
func inside(t *testing.T, root string, args ...string) *exec.Cmd {
	t.Helper()
	const script = `mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && mount -t tmpfs tmpfs "$0/tmp" && exec chroot "$0" "$@"`
	cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", script, root}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	return cmd
}

// start starts cmd, waits until it prints a line with ready in it, and kills it when the test ends.
func start(t *testing.T, cmd *exec.Cmd, ready string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	seen := make(chan string, 1)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fmt.Fprintln(&all, lines.Text())
			if strings.Contains(lines.Text(), ready) {
				seen <- ""
				_, _ = io.Copy(io.Discard, out)
				return
			}
		}
		seen <- "it ended:\n" + all.String()
	}()
	select {
	case why := <-seen:
		if why != "" {
			t.Fatalf("%v never said %q: %s", cmd.Args[3:], ready, why)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%v did not say %q within a minute", cmd.Args[3:], ready)
	}
}

func get(t *testing.T, port, path string, into any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}

package oracle

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

// program is a real program, and the path or port at which it answers.
type program struct {
	name, path, port string
	args             []string
}

func programs() []program {
	return []program{
		{"python-numpy-threads", "/value", "8080", []string{"python3", "/srv/server.py", "--mb", "32"}},
		{"node", "/value", "8080", []string{"node", "/srv/server.mjs"}},
		{"java", "/value", "8080", []string{"java", "-cp", "/srv", "Server"}},
		{"go", "/value", "8080", []string{"/srv/goserver"}},
		{"ruby", "/value", "8080", []string{"ruby", "/srv/server.rb"}},
		{"nginx", "/", "8080", []string{"nginx", "-c", "/srv/nginx.conf"}},
		{"redis", "", "6379", []string{"redis-server", "/srv/redis.conf"}},
		{"shell", "", "", []string{"sh", "-c", "while :; do sleep 1000 & wait; done"}},
	}
}

// TestPrograms compares what each engine makes of real programs.
func TestPrograms(t *testing.T) {
	svc, _ := apitest.Open(t)
	rootfs := testrootfs.Dir(t, testrootfs.FullName)
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			tr := try(ctx, t, svc, api.RunRequest{Name: p.name, Rootfs: rootfs, Args: p.args}, p.probe)
			all := []witness{rested(t, tr.original())}
			all = append(all, tr.clones(ctx, all[0])...)
			if tr.refused != nil {
				t.Error(tr.refused)
			}
			compareAll(t, all)
			for _, w := range all {
				if err := p.probe(w.container); err != nil {
					t.Errorf("%s does not answer: %v", w.name, err)
				}
			}
		})
	}
}

// probe asks a program for a sign of life.
func (p program) probe(c *snapshot.Container) error {
	address := net.JoinHostPort(c.Network.Address.String(), p.port)
	switch {
	case p.port == "":
		return nil
	case p.path == "":
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + p.path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", address, resp.Status)
	}
	return nil
}

// rested takes the picture of a program again until nothing has changed in it for a moment.
func rested(t *testing.T, w witness) witness {
	t.Helper()
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		again := look(t, w.name, w.engine, w.container, nil)
		if len(compare(w, again)) == 0 {
			return again
		}
		w = again
	}
	return w
}

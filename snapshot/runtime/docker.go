package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// answerTime bounds the wait for an engine's answer where the caller's context does not.
const answerTime = 30 * time.Second

// Docker finds containers of a Docker engine on this host, which it asks over the engine's unix socket. A ref is
// whatever the engine takes: an id, the beginning of one, or a name.
type Docker struct {
	Socket string // empty: that of DOCKER_HOST, else the default one
}

// Name returns "docker".
func (Docker) Name() string { return "docker" }

// dockerContainer is the part of the engine's answer that is wanted. It has been the same since API version 1.24.
type dockerContainer struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status string
		Pid    int
	}
	Config      struct{ Image string }
	HostsPath   string
	GraphDriver graphDriver
	Mounts      []engineMount
}

// graphDriver and engineMount look the same at docker and podman.
type graphDriver struct {
	Data map[string]string
}

type engineMount struct {
	Type, Source, Destination string
}

// Find implements [Runtime].
func (d Docker) Find(ctx context.Context, ref string) (*Source, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := d.inspect(ctx, ref)
	if err != nil {
		return nil, err
	}
	s := &Source{Runtime: "docker", ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Image: c.Config.Image, Pid: c.State.Pid}
	if err := checkStatus(s.on(), c.State.Status); err != nil {
		return nil, err
	}
	p, err := live(s.on(), s.Pid, 0)
	if err != nil {
		return nil, err
	}
	bundle, err := dockerBundle(p.parent, c.ID)
	if err != nil {
		return nil, failure(snapshot.KindFailed, s.on(), err, "the engine must run its containers under containerd's shim")
	}
	if err := s.loadSpec(bundle); err != nil {
		return nil, err
	}
	c.GraphDriver.hint(s)
	s.Volumes = volumes(c.Mounts)
	return s, observe(s, []string{filepath.Dir(c.HostsPath)})
}

// hint sets the layers as the engine knows them.
func (g graphDriver) hint(s *Source) {
	if g.Data["UpperDir"] != "" {
		s.Upper = g.Data["UpperDir"]
		s.Lower = strings.Split(g.Data["LowerDir"], ":")
	}
}

func volumes(mounts []engineMount) map[string]string {
	m := make(map[string]string)
	for _, e := range mounts {
		if e.Type == "bind" || e.Type == "volume" {
			m[filepath.Clean(e.Destination)] = e.Source
		}
	}
	return m
}

// checkStatus fails for a container that the engine does not call running.
func checkStatus(on, status string) error {
	switch status {
	case "running":
		return nil
	case "paused":
		return failure(snapshot.KindState, on, errors.New("the container is paused"), "unpause it first")
	case "created", "configured", "initialized":
		return failure(snapshot.KindState, on, errors.New("the container is created and not started"), "start it first")
	case "exited", "stopped", "dead":
		return exited(on)
	}
	return failure(snapshot.KindState, on, fmt.Errorf("the container is %s", status), "only a running container can be captured")
}

// dockerBundle finds the bundle by the shim that is init's parent, which is right wherever the engine keeps its run-time
// state, and else where engines keep it by default.
func dockerBundle(parent int, id string) (string, error) {
	if b, err := shimBundle(parent, id); err == nil {
		return b, nil
	}
	for _, state := range []string{"/run/containerd", "/run/docker/containerd/daemon", "/var/run/docker/containerd/daemon"} {
		b := filepath.Join(state, "io.containerd.runtime.v2.task/moby", id)
		if _, err := os.Stat(filepath.Join(b, "config.json")); err == nil {
			return b, nil
		}
	}
	return "", errors.New("its OCI bundle cannot be found")
}

func (d Docker) inspect(ctx context.Context, ref string) (*dockerContainer, error) {
	on := "docker:" + ref
	socket, err := d.socket()
	if err != nil {
		return nil, failure(snapshot.KindInvalid, on, err, "set DOCKER_HOST to unix:///PATH")
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/"+url.PathEscape(ref)+"/json", nil)
	if err != nil {
		return nil, failure(snapshot.KindInvalid, on, err, "")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, failure(snapshot.KindUnreachable, on, err, "is the engine running? DOCKER_HOST names its socket")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, failure(snapshot.KindUnreachable, on, err, "")
	}
	if resp.StatusCode != http.StatusOK {
		return nil, dockerRefusal(on, resp.StatusCode, body)
	}
	var c dockerContainer
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, failure(snapshot.KindFailed, on, fmt.Errorf("decode the engine's answer: %w", err), "")
	}
	return &c, nil
}

func (d Docker) socket() (string, error) {
	if d.Socket != "" {
		return d.Socket, nil
	}
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		return "/var/run/docker.sock", nil
	}
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return "", fmt.Errorf("DOCKER_HOST is %s, and only an engine on this host can be captured from", host)
	}
	return socket, nil
}

func dockerRefusal(on string, status int, body []byte) error {
	var reply struct{ Message string }
	if json.Unmarshal(body, &reply) != nil || reply.Message == "" {
		reply.Message = http.StatusText(status)
	}
	switch {
	case strings.Contains(reply.Message, "multiple IDs found"), strings.Contains(reply.Message, "Multiple IDs found"):
		return failure(snapshot.KindInvalid, on, errors.New("several containers match"), "give more of the id")
	case status == http.StatusNotFound:
		return failure(snapshot.KindNotFound, on, errors.New("no such container"), "docker ps lists the running ones")
	case status == http.StatusBadRequest:
		return failure(snapshot.KindInvalid, on, errors.New(reply.Message), "")
	}
	return failure(snapshot.KindFailed, on, fmt.Errorf("the engine answers %d: %s", status, reply.Message), "")
}

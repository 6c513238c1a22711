package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Podman finds podman's containers by running its inspect command: where podman keeps its state changed from bolt to
// sqlite and is a matter of configuration. A ref is an id, the beginning of one, or a name.
type Podman struct {
	Command []string // the program and its global options; empty: "podman"
}

// Name returns "podman".
func (Podman) Name() string { return "podman" }

type podmanContainer struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status string
		Pid    int
	}
	ImageName     string
	OCIConfigPath string
	HostsPath     string
	GraphDriver   graphDriver
	Mounts        []engineMount
}

// Find implements [Runtime].
func (p Podman) Find(ctx context.Context, ref string) (*Source, error) {
	c, err := p.inspect(ctx, ref)
	if err != nil {
		return nil, err
	}
	s := &Source{Runtime: "podman", ID: c.ID, Name: c.Name, Image: c.ImageName, Pid: c.State.Pid}
	if err := checkStatus(s.on(), c.State.Status); err != nil {
		return nil, err
	}
	if _, err := live(s.on(), s.Pid, 0); err != nil {
		return nil, err
	}
	if err := s.loadSpec(filepath.Dir(c.OCIConfigPath)); err != nil {
		return nil, err
	}
	c.GraphDriver.hint(s)
	s.Volumes = volumes(c.Mounts)
	return s, observe(s, []string{s.Bundle, filepath.Dir(c.HostsPath)})
}

func (p Podman) inspect(ctx context.Context, ref string) (*podmanContainer, error) {
	on := "podman:" + ref
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	command := p.Command
	if len(command) == 0 {
		command = []string{"podman"}
	}
	args := slices.Concat(command[1:], []string{"inspect", "--type", "container", "--format", "json", "--", ref})
	cmd := exec.CommandContext(ctx, command[0], args...)
	cmd.WaitDelay = time.Second
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return nil, failure(snapshot.KindUnreachable, on, err, "podman is not installed, or not in PATH")
	}
	if err != nil {
		return nil, podmanRefusal(on, err, complaint.String())
	}
	var list []podmanContainer
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		return nil, failure(snapshot.KindFailed, on, fmt.Errorf("decode podman's answer: %w", err), "")
	}
	if len(list) != 1 {
		return nil, failure(snapshot.KindFailed, on, fmt.Errorf("podman describes %d containers", len(list)), "")
	}
	return &list[0], nil
}

func podmanRefusal(on string, err error, complaint string) error {
	lines := strings.Split(strings.TrimSpace(complaint), "\n")
	last := lines[len(lines)-1]
	switch {
	case strings.Contains(last, "more than one result"):
		return failure(snapshot.KindInvalid, on, errors.New("several containers match"), "give more of the id")
	case strings.Contains(last, "no such container"), strings.Contains(last, "no such object"):
		return failure(snapshot.KindNotFound, on, errors.New("no such container"), "podman ps lists the running ones")
	}
	return failure(snapshot.KindFailed, on, fmt.Errorf("podman inspect: %w: %s", err, last), "")
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

const specFile = "config.json"

func readSpec(dir string) (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", specFile, err)
	}
	if s.Process == nil || len(s.Process.Args) == 0 || s.Linux == nil {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "start", On: filepath.Join(dir, specFile),
			Err: errors.New("the spec lacks process.args or linux")}
	}
	return &s, nil
}

// libcontainerConfig turns the spec into libcontainer's terms, with the root file system, the network namespace and the
// cgroup that were made for the container.
func libcontainerConfig(s *specs.Spec, record snapshot.Container, rootfs string, netns *sandbox.Netns, log *slog.Logger) (*configs.Config, error) {
	if s.Root == nil {
		s.Root = &specs.Root{}
	}
	s.Root.Path = rootfs
	s.Linux.CgroupsPath = record.Cgroup
	s.Process.Terminal = false
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
	if netns != nil {
		// Init is another process than this one: /proc/self would be its own.
		path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), netns.File().Fd())
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
	}
	s.Hostname = ""
	if slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UTSNamespace }) {
		s.Hostname = record.Hostname
	}
	if s.Linux.Seccomp != nil && !seccomp.Enabled {
		log.Warn("the system call filter is left out: this shim was built without libseccomp")
		s.Linux.Seccomp = nil
	}
	return specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: record.ID, Spec: s})
}

// bindMissing binds files of the host over paths of the container on which nothing is mounted yet.
func bindMissing(s *specs.Spec, files map[string]string) {
	for path, source := range files {
		taken := func(m specs.Mount) bool { return filepath.Clean(m.Destination) == path }
		if slices.ContainsFunc(s.Mounts, taken) {
			continue
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: path, Source: source, Type: "bind", Options: []string{"rbind", "rprivate"}})
	}
}

// newProcess is a process as the spec describes it.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		Label: p.SelinuxLabel, AppArmorProfile: p.ApparmorProfile, NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority,
	}
	if lp.Cwd == "" {
		lp.Cwd = "/"
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, r := range p.Rlimits {
		number, err := rlimitNumber(r.Type)
		if err != nil {
			return nil, err
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: number, Hard: r.Hard, Soft: r.Soft})
	}
	return lp, nil
}

// rlimitNumber is the kernel's number of a limit; they are the same on all architectures that we run on.
func rlimitNumber(name string) (int, error) {
	names := []string{"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
		"MSGQUEUE", "NICE", "RTPRIO", "RTTIME"}
	n := slices.Index(names, strings.TrimPrefix(name, "RLIMIT_"))
	if n < 0 {
		return 0, fmt.Errorf("unknown resource limit %q", name)
	}
	return n, nil
}

// Package spec makes the OCI runtime spec of a container: the one place that decides what a container that we run looks
// like to the programs in it. The choices are Docker's, so that images behave as their authors saw them behave.
//
// The package only computes. The files it reads are those of a root file system that is given to it (users and groups)
// and the config.json of a bundle; it changes nothing.
package spec

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Options say what a user asked for. The zero value of a field means that nothing was asked.
type Options struct {
	Args     []string // replaces the image's Cmd; the image's Entrypoint stays in front
	Env      []string // K=V, over the image's; K alone takes a variable out
	Workdir  string   // absolute
	User     string   // as ParseUser takes it
	Hostname string
	Volumes  []string // as ParseVolume takes them
	Limits   snapshot.Limits

	CgroupPath  string // below each hierarchy, starting with "/"
	HostNetwork bool   // stay in the host's network namespace

	Image   *v1.ImageConfig // nil: no defaults
	Rootfs  string          // directory of the root file system, where users are looked up
	Seccomp bool            // with the default system call filter
}

// New returns the spec of the container that o describes. Its errors are of KindInvalid, and of KindNotFound where a
// user or a group does not exist.
func New(o Options) (*specs.Spec, error) {
	image := v1.ImageConfig{}
	if o.Image != nil {
		image = *o.Image
	}
	process, err := newProcess(o, image)
	if err != nil {
		return nil, err
	}
	mounts, err := allMounts(o)
	if err != nil {
		return nil, err
	}
	resources, err := newResources(o.Limits)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: o.Rootfs},
		Hostname: o.Hostname,
		Process:  process,
		Mounts:   mounts,
		Linux: &specs.Linux{
			CgroupsPath:   o.CgroupPath,
			Namespaces:    namespaces(o),
			Resources:     resources,
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
		},
	}
	if !o.HostNetwork {
		s.Linux.Sysctl = networkSysctls()
	}
	if o.Seccomp {
		s.Linux.Seccomp = seccomp(process.Capabilities.Bounding)
	}
	return s, nil
}

func newProcess(o Options, image v1.ImageConfig) (*specs.Process, error) {
	args, err := command(o.Args, image)
	if err != nil {
		return nil, err
	}
	cwd, err := workdir(o.Workdir, image.WorkingDir)
	if err != nil {
		return nil, err
	}
	name := o.User
	if name == "" {
		name = image.User
	}
	account, err := lookup(o.Rootfs, name)
	if err != nil {
		return nil, err
	}
	env, err := environment(o, image.Env, account.home)
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		User:         account.user,
		Args:         args,
		Env:          env,
		Cwd:          cwd,
		Capabilities: capabilities(account.user.UID),
	}, nil
}

// command puts together what to execute: arguments given replace the image's Cmd and never its Entrypoint.
func command(given []string, image v1.ImageConfig) ([]string, error) {
	rest := given
	if len(rest) == 0 {
		rest = image.Cmd
	}
	args := slices.Concat(image.Entrypoint, rest)
	if len(args) == 0 || args[0] == "" {
		return nil, invalid("run", "", "no command given, and the image names none", "put the program and its arguments after --")
	}
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return nil, invalid("argument", a, "holds a zero byte", "")
		}
	}
	return args, nil
}

func workdir(given, image string) (string, error) {
	if given != "" {
		return path.Clean(given), CheckWorkdir(given)
	}
	return path.Join("/", image), nil // some images have a relative one
}

// CheckWorkdir says whether a program can be asked to start in dir; an empty one stands for the container's own. Whether
// the container has such a directory is not looked at.
func CheckWorkdir(dir string) error {
	if dir != "" && !path.IsAbs(dir) {
		return invalid("working directory", dir, "is not an absolute path", "give a path that starts with /")
	}
	return nil
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func environment(o Options, image []string, home string) ([]string, error) {
	env := []string{defaultPath}
	if o.Hostname != "" {
		env = append(env, "HOSTNAME="+o.Hostname)
	}
	for _, v := range slices.Concat(image, o.Env) {
		name, _, set := strings.Cut(v, "=")
		if name == "" || strings.ContainsRune(v, 0) {
			return nil, invalid("environment variable", v, "is not NAME=VALUE", "")
		}
		at := slices.IndexFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		switch {
		case at >= 0 && set:
			env[at] = v
		case at >= 0:
			env = slices.Delete(env, at, at+1)
		case set:
			env = append(env, v)
		}
	}
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) {
		env = append(env, "HOME="+home)
	}
	return env, nil
}

func namespaces(o Options) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
	}
	if !o.HostNetwork {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return ns
}

func newResources(l snapshot.Limits) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{
		// Deny all; every runtime adds the harmless devices (null, zero, urandom, tty, …) by itself.
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	const leastMemory = 6 << 20
	switch {
	case l.MemoryBytes < 0 || l.MemoryBytes > 0 && l.MemoryBytes < leastMemory:
		return nil, invalid("memory limit", fmt.Sprint(l.MemoryBytes), "is too small", "the least is 6m")
	case l.MemoryBytes > 0:
		r.Memory = &specs.LinuxMemory{Limit: new(l.MemoryBytes)}
	}
	const period, leastCPUs, mostCPUs = 100_000, 0.01, 1 << 20
	switch {
	case l.CPUs == 0:
	case l.CPUs >= leastCPUs && l.CPUs <= mostCPUs:
		r.CPU = &specs.LinuxCPU{Period: new(uint64(period)), Quota: new(int64(l.CPUs * period))}
	default: // and not a number
		return nil, invalid("processor limit", fmt.Sprint(l.CPUs), "is out of range", "the least is 0.01")
	}
	switch {
	case l.Pids < 0:
		return nil, invalid("process limit", fmt.Sprint(l.Pids), "is negative", "")
	case l.Pids > 0:
		r.Pids = &specs.LinuxPids{Limit: new(l.Pids)}
	}
	return r, nil
}

// capabilities returns what a process of the user may do. A user other than root starts without any and can get those
// of the bounding set through a set-user-id program, as everywhere.
func capabilities(uid uint32) *specs.LinuxCapabilities {
	all := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	c := &specs.LinuxCapabilities{Bounding: all}
	if uid == 0 {
		c.Effective, c.Permitted = slices.Clone(all), slices.Clone(all)
	}
	return c
}

// networkSysctls let a program that is not root listen on low ports and send pings: inside a network namespace of its
// own that endangers nobody.
func networkSysctls() map[string]string {
	return map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 2147483647",
	}
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// allMounts returns the default mounts with the user's in place of those at the same path, parents before children.
func allMounts(o Options) ([]specs.Mount, error) {
	byPath := make(map[string]specs.Mount)
	order := make(map[string]int) // among mounts of equal depth: as listed
	put := func(m specs.Mount) {
		if _, there := order[m.Destination]; !there {
			order[m.Destination] = len(order)
		}
		byPath[m.Destination] = m
	}
	for _, m := range defaultMounts() {
		put(m)
	}
	seen := make(map[string]string)
	for _, v := range o.Volumes {
		source, target, ro, err := ParseVolume(v)
		if err != nil {
			return nil, err
		}
		if other, twice := seen[target]; twice {
			return nil, invalid("volume", v, "has the same target as "+other, "each path in the container can be the target of one volume")
		}
		seen[target] = v
		mode := "rw"
		if ro {
			mode = "ro"
		}
		put(bind(source, target, "rbind", "rprivate", mode))
	}
	return slices.SortedFunc(maps.Values(byPath), func(a, b specs.Mount) int {
		if d := strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/"); d != 0 {
			return d
		}
		return order[a.Destination] - order[b.Destination]
	}), nil
}

func bind(source, target string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: target, Options: options}
}

func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}

func invalid(op, on, why, hint string) error {
	if on != "" {
		on = fmt.Sprintf("%q", on)
	}
	return &snapshot.Error{Kind: snapshot.KindInvalid, Op: op, On: on, Err: errors.New(why), Hint: hint}
}

package sandbox

import (
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it device rules are refused
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// period is the time over which processors are shared out, in microseconds: the kernel's own choice.
const period = 100_000

// create makes the cgroup in each hierarchy that it is to be in, and sets its limits.
func (c *Cgroup) create(l snapshot.Limits) error {
	if c.inherits() {
		if err := c.inherit(); err != nil {
			return err
		}
		return c.SetLimits(l)
	}
	config := &cgroups.Cgroup{Path: c.path, Resources: resources(l)}
	m, err := c.manager(config)
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil { // makes the directories and moves nobody
		return err
	}
	return m.Set(config.Resources)
}

// SetLimits sets the limits of a cgroup that has processes. Memory that they have already may be more than the limit:
// the error then says so.
func (c *Cgroup) SetLimits(l snapshot.Limits) error {
	if err := c.check(); err != nil {
		return err
	}
	if l == (snapshot.Limits{}) {
		return nil
	}
	return c.limit(l)
}

// limit sets the limits of a cgroup that exists.
func (c *Cgroup) limit(l snapshot.Limits) error {
	config := &cgroups.Cgroup{Path: c.path, Resources: resources(l)}
	config.SkipDevices = true // they are set when the cgroup is made
	m, err := c.manager(config)
	if err != nil {
		return err
	}
	return m.Set(config.Resources)
}

func (c *Cgroup) manager(config *cgroups.Cgroup) (cgroups.Manager, error) {
	paths := make(map[string]string)
	for name, mount := range c.hierarchies {
		if name == "" {
			continue
		}
		for controller := range strings.SplitSeq(name, ",") {
			paths[controller] = filepath.Join(mount, c.path)
		}
	}
	if len(paths) == 0 {
		return fs2.NewManager(config, filepath.Join(c.hierarchies[""], c.path))
	}
	return fs.NewManager(config, paths)
}

func resources(l snapshot.Limits) *cgroups.Resources {
	r := &cgroups.Resources{Devices: deviceRules()}
	if l.MemoryBytes > 0 {
		r.Memory = l.MemoryBytes
	}
	if l.CPUs > 0 {
		r.CpuPeriod, r.CpuQuota = period, max(1000, int64(l.CPUs*period)) // the kernel takes no less than a millisecond
	}
	if l.Pids > 0 {
		r.PidsLimit = new(l.Pids)
	}
	return r
}

// deviceRules are those of every OCI container.
func deviceRules() []*devices.Rule {
	const any = devices.Wildcard
	rules := []*devices.Rule{
		{Type: devices.WildcardDevice, Major: any, Minor: any, Permissions: "rwm"},
		{Type: devices.CharDevice, Major: any, Minor: any, Permissions: "m", Allow: true},
		{Type: devices.BlockDevice, Major: any, Minor: any, Permissions: "m", Allow: true},
		{Type: devices.CharDevice, Major: 136, Minor: any, Permissions: "rwm", Allow: true}, // pseudo terminals
		{Type: devices.CharDevice, Major: 5, Minor: 2, Permissions: "rwm", Allow: true},     // ptmx
		{Type: devices.CharDevice, Major: 5, Minor: 0, Permissions: "rwm", Allow: true},     // tty
	}
	for _, minor := range []int64{3, 5, 7, 8, 9} { // null, zero, full, random, urandom
		rules = append(rules, &devices.Rule{Type: devices.CharDevice, Major: 1, Minor: minor, Permissions: "rwm", Allow: true})
	}
	return rules
}

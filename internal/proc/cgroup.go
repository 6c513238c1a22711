package proc

import (
	"fmt"
	"os"
	"strings"
)

// Cgroups returns the cgroup that the process is in, by hierarchy: the controllers as /proc/PID/cgroup names them ("memory",
// "cpu,cpuacct", "name=systemd"), and "" for the hierarchy of version 2.
func Cgroups(pid int) (map[string]string, error) {
	path := file(pid, "cgroup")
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := parseCgroups(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func parseCgroups(s string) (map[string]string, error) {
	m := make(map[string]string)
	for line := range strings.Lines(s) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("cannot read line %q", line)
		}
		m[f[1]] = f[2]
	}
	return m, nil
}

package testhost

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Left lists what of the installation is on the host now: processes, mounts, cgroups and interfaces.
func (in *Installation) Left() []string {
	var left []string
	left = append(left, in.processes()...)
	left = append(left, in.mounts()...)
	left = append(left, in.cgroups()...)
	if _, err := net.InterfaceByName(in.Bridge); err == nil {
		left = append(left, "interface "+in.Bridge)
	}
	return left
}

// processes finds shims and whatever else has the installation's directories among its arguments or its mounts.
func (in *Installation) processes() []string {
	var left []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == os.Getpid() {
			continue
		}
		// A zombie has no mounts and no arguments: it holds nothing but its entry.
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if strings.Contains(string(args), in.Root) || strings.Contains(string(mounts), in.Root+"/containers/") {
			left = append(left, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(args), "\x00", " ")))
		}
	}
	return left
}

func (in *Installation) mounts() []string {
	var left []string
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, in.Root) || strings.Contains(line, in.Run) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	return left
}

func (in *Installation) cgroups() []string {
	var left []string
	for _, pattern := range []string{"/sys/fs/cgroup/snapd-ctr-", "/sys/fs/cgroup/*/snapd-ctr-"} {
		found, _ := filepath.Glob(pattern + in.Bridge + "-*/*")
		for _, dir := range found {
			if st, err := os.Stat(dir); err == nil && st.IsDir() {
				left = append(left, "cgroup "+dir)
			}
		}
	}
	return left
}

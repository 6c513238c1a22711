package criu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// kernel is the witness that asks /proc about the tree of root.
type kernel struct{ root int }

func (k kernel) process(pid int) string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	name := strings.TrimSpace(string(comm))
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if ids := strings.Fields(line); len(ids) > 2 && ids[0] == "NSpid:" {
			return fmt.Sprintf("%s (process %s of the container, %d here)", name, ids[len(ids)-1], pid)
		}
	}
	return fmt.Sprintf("%s (process %d)", name, pid)
}

func (k kernel) holder(link string) (pid, fd int, ok bool) {
	for pid := range tree(k.root) {
		dir := fmt.Sprintf("/proc/%d/fd/", pid)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if got, err := os.Readlink(dir + e.Name()); err == nil && got == link {
				fd, _ := strconv.Atoi(e.Name())
				return pid, fd, true
			}
		}
	}
	return 0, 0, false
}

package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// StartTime returns when a process started, in clock ticks since boot. Together with the boot id it tells a process from
// a later one with the same id.
func StartTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStartTime(string(b))
}

// parseStartTime finds field 22 of a stat line. The second field, a name in parentheses, may hold anything.
func parseStartTime(stat string) (uint64, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("stat of a process has only %d fields", len(fields)+2)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// BootID returns the identity of the host's present boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// Alive says whether the init process that the record names still exists, dead or alive but not reaped included.
func Alive(c snapshot.Container) bool {
	boot, err := BootID()
	if err != nil || c.Pid <= 0 || c.BootID != boot {
		return false
	}
	start, err := StartTime(c.Pid)
	return err == nil && start == c.StartTime
}

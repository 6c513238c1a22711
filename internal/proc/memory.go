package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Resident returns how many bytes of memory a process and all processes below it have, counted once for each process
// that shares them: an upper bound.
func Resident(pid int) (int64, error) {
	pids, err := Children(pid)
	if err != nil {
		return 0, err
	}
	var pages int64
	for _, p := range append(pids, pid) {
		b, err := os.ReadFile(file(p, "statm"))
		if err != nil {
			if gone(err) && p != pid {
				continue
			}
			return 0, err
		}
		fields := bytes.Fields(b)
		if len(fields) < 2 {
			return 0, fmt.Errorf("%s: %q", file(p, "statm"), b)
		}
		n, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file(p, "statm"), err)
		}
		pages += n
	}
	return pages * int64(os.Getpagesize()), nil
}

// AvailableMemory returns how many bytes programs can still be given without swapping, as the kernel estimates it.
func AvailableMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) >= 2 && string(fields[0]) == "MemAvailable:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
}

// Status is what /proc/PID/status says of a process's size.
type Status struct {
	Threads    int
	PageTables int64 // bytes
}

// ReadStatus reads it. A process that has ended has neither.
func ReadStatus(pid int) (s Status, err error) {
	path := file(pid, "status")
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		var n int64
		switch string(f[0]) {
		case "Threads:":
			n, err = strconv.ParseInt(string(f[1]), 10, 32)
			s.Threads = int(n)
		case "VmPTE:":
			n, err = strconv.ParseInt(string(f[1]), 10, 54)
			s.PageTables = n << 10
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", path, err)
		}
	}
	return s, nil
}

package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Mapping is one line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64
	Name       string // of the file, "[stack]" and the like, or ""
}

// Mappings returns the memory mappings of a process, ascending.
func Mappings(pid int) ([]Mapping, error) {
	b, err := os.ReadFile(file(pid, "maps"))
	if err != nil {
		return nil, err
	}
	var out []Mapping
	for line := range bytes.Lines(b) {
		var m Mapping
		if _, err := fmt.Sscanf(string(line), "%x-%x", &m.Start, &m.End); err != nil {
			return nil, fmt.Errorf("%s: %q", file(pid, "maps"), line)
		}
		if f := bytes.Fields(line); len(f) > 5 {
			m.Name = string(f[5])
		}
		out = append(out, m)
	}
	return out, nil
}

// ReadMemory reads memory of a process that the caller may trace.
func ReadMemory(pid int, at uint64, n int) ([]byte, error) {
	f, err := os.Open(file(pid, "mem"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, int64(at)); err != nil {
		return nil, err
	}
	return b, nil
}

// MaxMappings returns how many mappings the host lets a process have.
func MaxMappings() (uint64, error) {
	const name = "/proc/sys/vm/max_map_count"
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Rollup is the memory of a process in bytes.
type Rollup struct {
	RSS  int64 // all that it maps
	PSS  int64 // the same, of what n processes map only the nth part
	Huge int64 // anonymous memory in huge pages

	Private int64 // what only this process maps
}

// ReadRollup adds up what a process maps, from smaps_rollup.
func ReadRollup(pid int) (Rollup, error) {
	path := file(pid, "smaps_rollup")
	b, err := os.ReadFile(path)
	if err != nil {
		return Rollup{}, err
	}
	r, err := parseRollup(b)
	if err != nil {
		return Rollup{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func parseRollup(b []byte) (r Rollup, err error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) != 3 {
			continue
		}
		var to *int64
		switch string(f[0]) {
		case "Private_Clean:", "Private_Dirty:", "Private_Hugetlb:":
			to = &r.Private
		case "Rss:":
			to = &r.RSS
		case "Pss:":
			to = &r.PSS
		case "AnonHugePages:":
			to = &r.Huge
		default:
			continue
		}
		kb, err := strconv.ParseInt(string(f[1]), 10, 54)
		if err != nil {
			return Rollup{}, err
		}
		*to += kb << 10
	}
	return r, nil
}

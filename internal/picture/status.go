package picture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func word(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// status reads a status file: values by their labels.
func status(dir string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		label, v, ok := strings.Cut(line, ":")
		if ok {
			m[label] = strings.Join(strings.Fields(v), " ")
		}
	}
	return m, nil
}

// passing says whether a line of status is left out: it tells of the moment, of the host's ids, or of how much memory is
// there at the moment. All others are taken, those of later kernels too.
func passing(label string) bool {
	switch label {
	case "State", "Tgid", "Ngid", "Pid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid", "FDSize", "SigQ", "Mems_allowed",
		"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches":
		return true
	}
	return strings.HasPrefix(label, "Vm") || strings.HasPrefix(label, "Rss") || label == "HugetlbPages"
}

// status notes the lines of status, the ids of the process and its memory's borders, and of each thread what is not as in
// the process.
func (s *scene) status(dir, name string, p task) error {
	whole, err := status(dir)
	if err != nil {
		return err
	}
	parent, _ := strconv.Atoi(whole["PPid"])
	s.picture.add(name+"/parent", "%s", s.within(parent))
	s.picture.add(name+"/group", "%d", innermost(whole["NSpgid"]))
	s.picture.add(name+"/session", "%d", innermost(whole["NSsid"]))
	s.lines(name+"/status", whole, nil)
	main, err := schedule(dir)
	if err != nil {
		return err
	}
	s.lines(name+"/stat", main, nil)
	threads, err := s.threads(p.host)
	if err != nil {
		return err
	}
	for _, t := range threads {
		if t == p {
			continue
		}
		at, label := fmt.Sprintf("%s/task/%d", dir, t.host), fmt.Sprintf("%s/threads/%d", name, t.inside)
		st, err := status(at)
		if err != nil {
			return err
		}
		s.picture.add(label+"/name", "%s", st["Name"])
		delete(st, "Name")
		s.lines(label, st, whole)
		sched, err := schedule(at)
		if err != nil {
			return err
		}
		s.lines(label, sched, main)
	}
	return nil
}

// lines notes what of m is not the same in base.
func (s *scene) lines(name string, m, base map[string]string) {
	for _, label := range sorted(m) {
		if v, ok := base[label]; passing(label) || ok && v == m[label] {
			continue
		}
		s.picture.add(name+"/"+label, "%s", m[label])
	}
}

// schedule reads of a stat file how a thread is scheduled, what its parent is told of its end, and where the memory of
// its program begins and ends.
func schedule(dir string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const first = 3 // f[0] is the third field, in the counting of proc(5)
	if len(f) <= 51-first {
		return nil, fmt.Errorf("%s/stat has %d fields", dir, len(f)+first-1)
	}
	m := make(map[string]string)
	for field, label := range map[int]string{18: "priority", 19: "nice", 26: "start_code", 27: "end_code", 28: "start_stack",
		38: "exit_signal", 40: "rt_priority", 41: "policy", 45: "start_data", 46: "end_data", 47: "start_brk", 48: "arg_start",
		49: "arg_end", 50: "env_start", 51: "env_end"} {
		m[label] = f[field-first]
	}
	m["tty"] = "none"
	if f[7-first] != "0" {
		m["tty"] = "a terminal, foreground group " + strconv.FormatBool(f[8-first] != "-1")
	}
	if slack, err := os.ReadFile(fmt.Sprintf("/proc/%s/timerslack_ns", filepath.Base(dir))); err == nil {
		m["timerslack"] = strings.TrimSpace(string(slack))
	}
	return m, nil
}

package picture

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Of takes a picture of the container whose first process is pid, as the host sees it, and of all processes below that. It
// reads one thing after the other: of a container that is not at rest the picture is blurred. It needs root.
func Of(pid int) (*Picture, error) {
	s := &scene{picture: &Picture{}, inside: make(map[int]int), numbers: make(map[string]int), counts: make(map[string]int)}
	if err := s.meet(pid); err != nil {
		return nil, err
	}
	if err := s.network(pid); err != nil {
		return nil, err
	}
	if err := s.mounts(pid); err != nil {
		return nil, err
	}
	for _, p := range s.processes {
		if err := s.process(p); err != nil {
			return nil, fmt.Errorf("picture of process %d: %w", p.host, err)
		}
	}
	return s.picture, nil
}

// scene is what a picture is taken of.
type scene struct {
	picture   *Picture
	processes []task
	inside    map[int]int // ids of threads: the host's → the container's
	own       []string    // the container's own addresses
	numbers   map[string]int
	counts    map[string]int
	files     []openFile // that were seen, to tell which descriptors are copies of which
}

// task is a process or a thread: its id for the host and for the container.
type task struct{ host, inside int }

func byInside(a, b task) int { return a.inside - b.inside }

// meet finds the processes and their threads.
func (s *scene) meet(pid int) error {
	below, err := proc.Children(pid)
	if err != nil {
		return err
	}
	for _, p := range append([]int{pid}, below...) {
		threads, err := s.threads(p)
		if err != nil {
			return err
		}
		for _, t := range threads {
			s.inside[t.host] = t.inside
		}
		s.processes = append(s.processes, task{p, s.inside[p]})
	}
	slices.SortFunc(s.processes, byInside)
	return nil
}

func (s *scene) threads(pid int) ([]task, error) {
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return nil, err
	}
	var all []task
	for _, dir := range dirs {
		host, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		st, err := status(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, task{host, innermost(st["NSpid"])})
	}
	slices.SortFunc(all, byInside)
	return all, nil
}

// innermost returns the last id of a list: the one in the innermost namespace.
func innermost(list string) int {
	ids := strings.Fields(list)
	if len(ids) == 0 {
		return -1
	}
	n, err := strconv.Atoi(ids[len(ids)-1])
	if err != nil {
		return -1
	}
	return n
}

// number gives the things of a kind numbers in the order in which they are met: their identities differ between clones,
// who shares them does not.
func (s *scene) number(kind, identity string) string {
	key := kind + " " + identity
	if _, ok := s.numbers[key]; !ok {
		s.counts[kind]++
		s.numbers[key] = s.counts[kind]
	}
	return fmt.Sprintf("%s#%d", kind, s.numbers[key])
}

// within translates an id of the host.
func (s *scene) within(host int) string {
	if host == 0 {
		return "none"
	}
	if n, ok := s.inside[host]; ok {
		return strconv.Itoa(n)
	}
	return "outside"
}

// process notes everything about one process.
func (s *scene) process(p task) error {
	dir := fmt.Sprintf("/proc/%d", p.host)
	name := strconv.Itoa(p.inside)
	for _, note := range []func(dir, name string, p task) error{
		s.identity, s.status, s.rest, s.limits, s.timers, s.sharing, s.memory, s.descriptors,
	} {
		if err := note(dir, name, p); err != nil {
			return err
		}
	}
	return nil
}

// identity notes what a process runs and where.
func (s *scene) identity(dir, name string, _ task) error {
	for _, link := range []string{"exe", "cwd", "root"} {
		to, err := os.Readlink(filepath.Join(dir, link))
		if err != nil {
			return err
		}
		s.picture.add(name+"/"+link, "%s", to)
	}
	for _, list := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(filepath.Join(dir, list))
		if err != nil {
			return err
		}
		for i, v := range strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00") {
			s.picture.add(fmt.Sprintf("%s/%s/%d", name, list, i), "%q", v)
		}
	}
	return nil
}

// rest notes the files of /proc/PID that hold one value each.
func (s *scene) rest(dir, name string, _ task) error {
	for _, file := range []string{"oom_score_adj", "personality", "coredump_filter", "loginuid", "setgroups", "uid_map", "gid_map",
		"autogroup", "timens_offsets", "attr/current"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue // not in this kernel
		}
		v := strings.Join(strings.Fields(strings.TrimRight(string(b), "\x00\n")), " ")
		switch file {
		case "autogroup": // "/autogroup-123 nice 0": a number of the host's
			_, v, _ = strings.Cut(v, " ")
		case "timens_offsets":
			v = offsets(v)
		}
		s.picture.add(name+"/"+file, "%s", v)
	}
	b, err := os.ReadFile(filepath.Join(dir, "auxv"))
	if err != nil {
		return err
	}
	for i := 0; i+16 <= len(b); i += 16 {
		s.picture.add(fmt.Sprintf("%s/auxv/%d", name, i/16), "%#x %#x", word(b[i:]), word(b[i+8:]))
	}
	return nil
}

// offsets says whether the clocks of a time namespace are set off.
func offsets(v string) string {
	for i, f := range strings.Fields(v) {
		if i%3 != 0 && f != "0" {
			return "present"
		}
	}
	return "absent"
}

// limits notes the resource limits.
func (s *scene) limits(dir, name string, _ task) error {
	b, err := os.ReadFile(filepath.Join(dir, "limits"))
	if err != nil {
		return err
	}
	const column = 26 // the width of the first one, which has blanks in it
	for i, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		if i == 0 || len(line) < column {
			continue
		}
		f := strings.Fields(string(line[column:]))
		s.picture.add(name+"/limits/"+strings.TrimSpace(string(line[:column])), "%s", strings.Join(f[:min(2, len(f))], " "))
	}
	return nil
}

// timers notes the POSIX timers: their ids, clocks and whom they signal. How long they have to go is not in /proc.
func (s *scene) timers(dir, name string, _ task) error {
	b, err := os.ReadFile(filepath.Join(dir, "timers"))
	if err != nil {
		return nil // a kernel without CONFIG_CHECKPOINT_RESTORE
	}
	id := ""
	for line := range strings.Lines(string(b)) {
		key, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		v = strings.TrimSpace(v)
		switch key {
		case "ID":
			id = v
			continue
		case "notify": // "signal/pid.123": an id of the host's
			how, whom, ok := strings.Cut(v, ".")
			if host, err := strconv.Atoi(whom); ok && err == nil {
				v = how + "." + s.within(host)
			}
		}
		s.picture.add(name+"/timers/"+id+"/"+key, "%s", v)
	}
	return nil
}

// sharing notes the namespaces and cgroups, by number, and what the threads share.
func (s *scene) sharing(dir, name string, p task) error {
	spaces, err := os.ReadDir(filepath.Join(dir, "ns"))
	if err != nil {
		return err
	}
	for _, ns := range spaces {
		its, err := os.Readlink(filepath.Join(dir, "ns", ns.Name()))
		if err != nil {
			continue // pid_for_children is empty until there is a child
		}
		ours, err := os.Readlink("/proc/self/ns/" + ns.Name())
		if err != nil {
			return err
		}
		if its == ours {
			its = "the host's"
		} else {
			kind, identity, _ := strings.Cut(its, ":")
			its = s.number(kind, identity)
		}
		s.picture.add(name+"/ns/"+ns.Name(), "%s", its)
	}
	groups, err := proc.Cgroups(p.host)
	if err != nil {
		return err
	}
	ours, err := proc.Cgroups(os.Getpid())
	if err != nil {
		return err
	}
	for _, h := range sorted(groups) {
		v := "the host's"
		if groups[h] != ours[h] {
			v = s.number("cgroup", groups[h])
		}
		s.picture.add(name+"/cgroup/"+h, "%s", v)
	}
	threads, err := s.threads(p.host)
	if err != nil {
		return err
	}
	for _, t := range threads {
		for what, label := range map[int]string{sys.ShareFiles: "descriptors", sys.ShareFS: "directories", sys.ShareSignal: "handlers"} {
			if same, err := sys.Shares(p.host, t.host, what); err != nil {
				return err
			} else if !same {
				s.picture.add(fmt.Sprintf("%s/threads/%d/own", name, t.inside), "%s", label)
			}
		}
	}
	return nil
}

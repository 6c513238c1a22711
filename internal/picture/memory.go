package picture

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// mapping is one mapping of a process's memory, or several that differ in nothing and touch: whether the kernel merged
// them depends on their history.
type mapping struct {
	start, end, offset uint64
	prot, name, flags  string
	anonymous          bool
}

// memory notes the mappings.
func (s *scene) memory(dir, name string, _ task) error {
	f, err := os.Open(filepath.Join(dir, "smaps"))
	if err != nil {
		return err
	}
	defer f.Close()
	var all []mapping
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		if err := smapsLine(&all, in.Text()); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	for _, m := range merged(all) {
		what := m.name
		if deleted, ok := strings.CutSuffix(what, " (deleted)"); ok && strings.HasPrefix(deleted, "/SYSV") {
			what = "/SYSV"
		}
		if what == "" {
			what = "anonymous"
		}
		s.picture.add(fmt.Sprintf("%s/maps/%x-%x", name, m.start, m.end), "%s %x %s [%s]", m.prot, m.offset, what, m.flags)
	}
	return nil
}

// smapsLine reads one line of smaps: the head of a mapping, or one of its properties.
func smapsLine(all *[]mapping, line string) error {
	head, rest, _ := strings.Cut(line, " ")
	if label, ok := strings.CutSuffix(head, ":"); ok {
		if len(*all) == 0 {
			return fmt.Errorf("smaps begins with %q", line)
		}
		m := &(*all)[len(*all)-1]
		switch label {
		case "VmFlags":
			m.flags = strings.TrimSpace(strings.Join(lasting(strings.Fields(rest)), " ") + m.flags)
		case "ProtectionKey":
			if key := strings.TrimSpace(rest); key != "0" {
				m.flags += " key " + key
			}
		}
		return nil
	}
	f := strings.Fields(line)
	if len(f) < 5 {
		return fmt.Errorf("smaps has the line %q", line)
	}
	from, to, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	offset, err3 := strconv.ParseUint(f[2], 16, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return fmt.Errorf("smaps has the line %q", line)
	}
	m := mapping{start: start, end: end, offset: offset, prot: f[1], anonymous: f[4] == "0"}
	if m.anonymous {
		m.offset = 0 // of private memory without a file it says where the mapping was made first
	}
	rest = line // the name is what follows five fields, blanks and all
	for range 5 {
		_, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
	}
	m.name = strings.TrimSpace(rest)
	*all = append(*all, m)
	return nil
}

// lasting leaves out flags that come and go, soft-dirty and a userfaultfd that brings memory in, and "ac", which says that
// the kernel counts the memory as promised: it depends on whether the mapping was writable at any time.
func lasting(flags []string) []string {
	return slices.DeleteFunc(flags, func(f string) bool { return slices.Contains([]string{"ac", "gu", "sd", "um", "uw", "ui"}, f) })
}

// merged puts together mappings that touch and differ in nothing.
func merged(all []mapping) []mapping {
	var out []mapping
	for _, m := range all {
		if len(out) > 0 {
			last := &out[len(out)-1]
			follows := last.end == m.start && (m.anonymous || last.offset+(last.end-last.start) == m.offset)
			if follows && last.prot == m.prot && last.name == m.name && last.flags == m.flags && last.anonymous == m.anonymous {
				last.end = m.end
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

package picture

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// openFile is a descriptor that was seen.
type openFile struct {
	pid, fd    int
	name, link string
}

// descriptors notes the descriptors of a process: what they lead to, where they stand, what is in them, and which are
// copies of one another, in other processes too.
func (s *scene) descriptors(dir, name string, p task) error {
	process, err := sys.OpenProcess(p.host)
	if err != nil {
		return err
	}
	defer process.Close()
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return err
	}
	var fds []int
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	slices.Sort(fds)
	for _, fd := range fds {
		link, err := os.Readlink(fmt.Sprintf("%s/fd/%d", dir, fd))
		if err != nil {
			return err
		}
		if err := s.descriptor(dir, process, openFile{p.host, fd, fmt.Sprintf("%s/fd/%d", name, fd), link}); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) descriptor(dir string, p *sys.Process, f openFile) error {
	kind, identity, numbered := strings.Cut(f.link, ":")
	what := f.link
	switch {
	case numbered && (kind == "pipe" || kind == "socket"):
		what = s.number(kind, identity)
	case numbered && strings.HasPrefix(identity, "["): // a namespace
		what = kind
	}
	s.picture.add(f.name, "%s", what)
	if original, err := s.original(f); err != nil {
		return err
	} else if original != "" {
		s.picture.add(f.name+"/same", "%s", original)
	}
	s.files = append(s.files, f)
	info, err := os.ReadFile(fmt.Sprintf("%s/fdinfo/%d", dir, f.fd))
	if err != nil {
		return err
	}
	s.info(f.name, string(info))
	if strings.HasPrefix(f.link, "/") {
		s.stat(fmt.Sprintf("%s/fd/%d", dir, f.fd), f.name)
	}
	return s.ask(p, f, kind)
}

// original returns the first descriptor that was seen of the same open file, or "".
func (s *scene) original(f openFile) (string, error) {
	for _, o := range s.files {
		if o.link != f.link {
			continue
		}
		same, err := sys.SameFile(o.pid, o.fd, f.pid, f.fd)
		if err != nil {
			return "", err
		}
		if same {
			return o.name, nil
		}
	}
	return "", nil
}

// stat notes what the file itself is.
func (s *scene) stat(path, name string) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		s.picture.add(name+"/file", "%v", err)
		return
	}
	size := st.Size
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		size = 0
	}
	s.picture.add(name+"/file", "mode %o size %d uid %d gid %d links %d", st.Mode, size, st.Uid, st.Gid, min(st.Nlink, 2))
}

// info notes the lines of a fdinfo file.
func (s *scene) info(name, text string) {
	var members []string
	for line := range strings.Lines(text) {
		label, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		v = strings.Join(strings.Fields(v), " ")
		switch label {
		case "mnt_id", "ino", "eventfd-id", "Pid":
			continue
		case "tfd":
			members = append(members, strings.Join(member(line), " "))
			continue
		case "it_value":
			v = remaining(v)
		case "ticks":
			if v != "0" {
				v = "some"
			}
		case "lock":
			f := strings.Fields(v)
			if len(f) >= 8 {
				v = strings.Join(slices.Concat(f[1:4], f[6:]), " ")
			}
		case "NSpid": // of a pidfd
			v = strconv.Itoa(innermost(v))
		default:
			if strings.HasPrefix(label, "inotify wd") || strings.HasPrefix(label, "fanotify ") {
				s.picture.add(name+"/watch", "%s", strings.Join(watch(line), " "))
				continue
			}
		}
		s.picture.add(name+"/"+label, "%s", v)
	}
	slices.Sort(members) // the kernel has them in the order of their addresses
	for _, m := range members {
		s.picture.add(name+"/epoll", "%s", m)
	}
}

// member reads a line of an epoll's fdinfo: which descriptor it was registered with, for what, with which data.
func member(line string) []string {
	return without(line, "pos:", "ino:", "sdev:")
}

// watch reads a line of an inotify's or fanotify's fdinfo.
func watch(line string) []string {
	return without(line, "ino:", "sdev:", "mnt_id:", "fhandle-bytes:", "fhandle-type:", "f_handle:")
}

// without returns the fields of a line without those that begin with one of labels; a value may stand apart from its
// label.
func without(line string, labels ...string) []string {
	var out []string
	fields := strings.Fields(line)
	for i := 0; i < len(fields); i++ {
		f := fields[i]
		apart := strings.HasSuffix(f, ":") && i+1 < len(fields)
		value := ""
		if apart {
			i++
			value = fields[i]
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return strings.HasPrefix(f, l) }) {
			out = append(out, f+value)
		}
	}
	return out
}

// remaining reads "(12, 345)", seconds and nanoseconds.
func remaining(v string) string {
	seconds, rest, _ := strings.Cut(strings.Trim(v, "()"), ",")
	if seconds == "0" && strings.TrimSpace(rest) == "0" {
		return "not armed"
	}
	return "≈" + seconds + "s"
}

// ask notes what a descriptor answers that /proc does not show.
func (s *scene) ask(p *sys.Process, f openFile, kind string) error {
	if kind != "pipe" && kind != "socket" && !strings.HasPrefix(f.link, "/memfd:") {
		return nil
	}
	peek, err := sys.NewPeek(p, f.fd)
	if err != nil {
		return err
	}
	defer peek.Close()
	switch kind {
	case "pipe":
		size, queued, err := peek.PipeFacts()
		if err != nil {
			return err
		}
		s.picture.add(f.name+"/pipe", "size %d queued %d", size, queued)
	case "socket":
		s.socket(peek, f.name)
	default:
		seals, err := peek.Seals()
		if err != nil {
			return fmt.Errorf("seals of %s: %w", f.link, err)
		}
		s.picture.add(f.name+"/seals", "%#x", seals)
	}
	return nil
}

func (s *scene) socket(peek *sys.Peek, name string) {
	local, peer := peek.SocketNames()
	s.picture.add(name+"/address", "%q, peer %q", s.neutral(local), s.neutral(peer))
	if state, backlog, ok := peek.TCPFacts(); ok {
		s.picture.add(name+"/tcp", "state %d backlog %d", state, backlog)
	}
	for _, o := range peek.SocketFacts() {
		s.picture.add(name+"/option/"+o.Name, "%d", o.Value)
	}
}

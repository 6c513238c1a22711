package proc

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// MappedFile is a regular file that a process runs or has mapped.
type MappedFile struct {
	*os.File        // opened as a path only, and named as in /proc/PID/maps
	Mount    int    // id of the mount that it was opened through
	Device   uint64 // as stat has it
	Inode    uint64
}

// MappedOutside returns the files that a process runs or has mapped and that were opened through a mount whose id is not
// among mounts, once each. The caller closes them. Files that were deleted, in their own file system, are left out. It is
// a picture of a moving thing unless the process is frozen. It needs CAP_CHECKPOINT_RESTORE.
func MappedOutside(pid int, mounts map[int]bool) ([]MappedFile, error) {
	maps, err := os.ReadFile(file(pid, "maps"))
	if err != nil {
		return nil, err
	}
	links := append([]string{"exe"}, mappedFileLinks(maps)...)
	var out []MappedFile
	for _, link := range links {
		f, err := openMapped(file(pid, link))
		if gone(err) {
			continue // unmapped since
		}
		if err == nil && f.File != nil {
			if mounts[f.Mount] || slices.ContainsFunc(out, f.Is) {
				f.Close()
				continue
			}
			out = append(out, f)
		}
		if err != nil {
			for _, f := range out {
				f.Close()
			}
			return nil, err
		}
	}
	return out, nil
}

// Is says whether two are one file, opened through one mount.
func (f MappedFile) Is(o MappedFile) bool {
	return o.Mount == f.Mount && o.Device == f.Device && o.Inode == f.Inode
}

// mappedFileLinks returns, of each file in the text of /proc/PID/maps, the link in /proc/PID to one of its mappings.
func mappedFileLinks(maps []byte) []string {
	var links []string
	seen := make(map[string]bool)
	for line := range bytes.Lines(maps) {
		// 7f00-7f08 r-xp 00001000 00:2a 1234    /lib/a b.so
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), " ", 4)
		if len(f) < 4 || !strings.Contains(f[3], "/") || seen[f[3]] {
			continue
		}
		seen[f[3]] = true // device, inode and name
		start, end, _ := strings.Cut(f[0], "-")
		// The link is without the zeros that stand before a small address here.
		links = append(links, "map_files/"+trimZeros(start)+"-"+trimZeros(end))
	}
	return links
}

func trimZeros(s string) string {
	if t := strings.TrimLeft(s, "0"); t != "" {
		return t
	}
	return "0"
}

// openMapped opens what a link in /proc/PID leads to. What is no regular file or was deleted is none.
func openMapped(link string) (MappedFile, error) {
	name, err := os.Readlink(link)
	if err != nil || !strings.HasPrefix(name, "/") || strings.HasSuffix(name, " (deleted)") {
		return MappedFile{}, err
	}
	const oPath = 0o10000000
	fd, err := syscall.Open(link, oPath|syscall.O_CLOEXEC, 0)
	if err != nil {
		return MappedFile{}, &os.PathError{Op: "open", Path: link, Err: err}
	}
	f := MappedFile{File: os.NewFile(uintptr(fd), name)}
	var st syscall.Stat_t
	if err = syscall.Fstat(fd, &st); err == nil {
		f.Mount, err = MountID(f.File)
	}
	if err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		f.Close()
		return MappedFile{}, err
	}
	f.Device, f.Inode = st.Dev, st.Ino
	return f, nil
}

// MountID returns the id of the mount that a file was opened through, as /proc/PID/mountinfo has it if it is in a mount
// namespace.
func MountID(f *os.File) (int, error) {
	path := fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd())
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if id, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(id)))
		}
	}
	return 0, fmt.Errorf("%s has no mnt_id", path)
}

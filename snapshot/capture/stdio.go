package capture

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// stdioOf names what the descriptors 0, 1 and 2 of init are, where clones are given something else: pipes, "pipe:[INODE]";
// files and terminals that lie on no mount of the container, so that only whoever started it can have opened them,
// "file[MOUNT:INODE]" and "tty[RDEV:DEV]", all numbers hexadecimal. These are CRIU's own names. A descriptor that the
// container opened itself, or that is closed, has none.
func stdioOf(pid int) (keys [3]string, err error) {
	mounts, err := proc.Mounts(pid)
	if err != nil {
		return keys, err
	}
	for fd := range keys {
		var st syscall.Stat_t
		path := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
		if err := syscall.Stat(path, &st); err != nil {
			continue // closed
		}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFIFO:
			if link, err := os.Readlink(path); err == nil && strings.HasPrefix(link, "pipe:[") {
				keys[fd] = link
			}
		case syscall.S_IFREG, syscall.S_IFCHR:
			mount, err := mountOf(pid, fd)
			if err != nil {
				return keys, err
			}
			if slices.ContainsFunc(mounts, func(m proc.Mount) bool { return m.ID == mount }) {
				continue
			}
			keys[fd] = fmt.Sprintf("file[%x:%x]", mount, st.Ino)
			if isTerminal(&st) {
				keys[fd] = fmt.Sprintf("tty[%x:%x]", st.Rdev, st.Dev)
			}
		}
	}
	return keys, nil
}

// mountOf returns the id of the mount on which a process opened a file.
func mountOf(pid, fd int) (id int, err error) {
	path := fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			_, err = fmt.Sscan(value, &id)
			return id, err
		}
	}
	return 0, fmt.Errorf("%s: no mnt_id", path)
}

// isTerminal says whether a character device is a pseudo terminal's slave, a virtual console or a serial line.
func isTerminal(st *syscall.Stat_t) bool {
	major := st.Rdev >> 8 & 0xfff
	return major == 4 || 136 <= major && major <= 143
}

// outside lists what CRIU must be told of the descriptors that stdioOf has named. It finds out about pipes by itself.
func outside(stdio [3]string) []string {
	var external []string
	for _, key := range stdio {
		if key != "" && !strings.HasPrefix(key, "pipe:") && !slices.Contains(external, key) {
			external = append(external, key)
		}
	}
	return external
}

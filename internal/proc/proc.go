// Package proc reads /proc.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
)

// Mount is one line of /proc/PID/mountinfo.
type Mount = mountinfo.Info

// stat is what this package wants of /proc/PID/stat.
type stat struct {
	state byte
	start uint64
}

// parseStat reads a line of /proc/PID/stat. The command name stands in parentheses and may itself hold ") ", so the
// fields are counted from the last parenthesis.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, errors.New("no command name")
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("%d fields after the command name", len(f))
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time: %w", err)
	}
	return stat{state: f[0][0], start: start}, nil
}

func readStat(pid int) (stat, error) {
	path := file(pid, "stat")
	b, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(b)
	if err != nil {
		return stat{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func file(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// StartTime returns when the process was started, in clock ticks since boot.
func StartTime(pid int) (uint64, error) {
	s, err := readStat(pid)
	return s.start, err
}

// State returns the letter for the process's state: 'R', 'S', 'D', 'T', 't', 'Z', 'X', 'I'.
func State(pid int) (byte, error) {
	s, err := readStat(pid)
	return s.state, err
}

// BootID returns the identity of this boot of the kernel.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// Alive says whether the process that got pid at the time start exists and is more than a zombie.
func Alive(pid int, start uint64) bool {
	s, err := readStat(pid)
	return err == nil && s.start == start && s.state != 'Z' && s.state != 'X'
}

// Children returns all processes below pid, children of any of its threads and their children, parents first. It is a
// picture of a moving thing unless the processes are frozen. It needs a kernel with CONFIG_PROC_CHILDREN.
func Children(pid int) ([]int, error) {
	var all []int
	for next := []int{pid}; len(next) > 0; {
		p := next[0]
		next = next[1:]
		direct, err := children(p)
		if err != nil && p == pid {
			return nil, err
		}
		all = append(all, direct...)
		next = append(next, direct...)
	}
	return all, nil
}

func children(pid int) ([]int, error) {
	tasks, err := os.ReadDir(file(pid, "task"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, t := range tasks {
		b, err := os.ReadFile(filepath.Join(file(pid, "task"), t.Name(), "children"))
		if err != nil {
			if gone(err) {
				continue
			}
			return nil, err
		}
		for _, f := range bytes.Fields(b) {
			child, err := strconv.Atoi(string(f))
			if err != nil {
				return nil, fmt.Errorf("children of %d: %w", pid, err)
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// gone says whether err means that the process or thread has ended meanwhile.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// Mounts returns the mounts of the process's mount namespace that lie below its root directory, in mountinfo order. Fields
// are unescaped.
func Mounts(pid int) ([]Mount, error) {
	path := file(pid, "mountinfo")
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	mounts := make([]Mount, len(infos))
	for i, m := range infos {
		mounts[i] = *m
	}
	return mounts, nil
}

// NamespaceInode returns the inode number that identifies the process's namespace of the kind ns ("net", "mnt", …).
func NamespaceInode(pid int, ns string) (uint64, error) {
	var st syscall.Stat_t
	path := file(pid, "ns/"+ns)
	if err := syscall.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// PrivateBytes returns the memory that only this process maps, from smaps_rollup.
func PrivateBytes(pid int) (int64, error) {
	r, err := ReadRollup(pid)
	return r.Private, err
}

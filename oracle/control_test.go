package oracle

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/picture"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

// TestControl changes one thing after the other in a clone. The comparison must name each: one that finds no difference must
// be known to be able to.
func TestControl(t *testing.T) {
	svc, _ := apitest.Open(t)
	t.Setenv("ORACLE_ONLY", "files,memory,threads")
	tr := try(t.Context(), t, svc, api.RunRequest{Name: "control", Rootfs: chaosRootfs(t), Args: chaosArgs(2)}, ready)
	tr.report = report
	first := tr.original()
	made := tr.clones(t.Context(), first)
	compareAll(t, append([]witness{first}, made...))
	clone := made[1]
	pid := clone.container.Pid
	file := func(name, text string) func() error {
		return func() error { return os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, name), []byte(text), 0) }
	}
	for _, c := range []struct {
		name   string
		change func() error
		want   string // a piece of the line that tells of it
	}{
		{"a limit", func() error { return lowerLimit(pid) }, "~ 1/limits/Max core file size "},
		{"the score for the OOM killer", file("oom_score_adj", "977"), "~ 1/oom_score_adj "},
		{"the filter of core dumps", file("coredump_filter", "0x1"), "~ 1/coredump_filter "},
		{"the priority", func() error { return syscall.Setpriority(syscall.PRIO_PROCESS, pid, 17) }, "~ 1/stat/nice "},
		{"a file", func() error { return os.Truncate(fmt.Sprintf("/proc/%d/root/file-0", pid), 3) }, "/file mode"},
		{"the priority of a thread", func() error { return slowThread(pid) }, "/nice 11"},
	} {
		if err := c.change(); err != nil {
			t.Fatalf("change %s: %v", c.name, err)
		}
		lines := compare(made[0], look(t, clone.name, clone.engine, clone.container, report))
		if !slices.ContainsFunc(lines, func(l picture.Change) bool { return strings.Contains(l.String(), c.want) }) {
			t.Errorf("%s was changed, and the comparison says only: %q", c.name, lines)
		}
	}
	if err := damage(pid, clone.report); err != nil {
		t.Fatal(err)
	}
	answer, err := ask(clone.container, "check")
	for _, want := range []string{"memory: ", "files: "} {
		if err != nil || !strings.Contains(answer, want) {
			t.Errorf("%swas changed, and the process finds only: %s, %v", want, answer, err)
		}
	}
}

// lowerLimit sets the limit for core files to an odd number, by the program that util-linux has for that.
func lowerLimit(pid int) error {
	out, err := exec.Command("prlimit", "--pid", fmt.Sprint(pid), "--core=4711:4711").CombinedOutput()
	if err != nil {
		return fmt.Errorf("prlimit: %w: %s", err, out)
	}
	return nil
}

// slowThread gives the process's last thread another priority.
func slowThread(pid int) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	tid, err := strconv.Atoi(threads[len(threads)-1].Name())
	if err != nil {
		return err
	}
	return syscall.Setpriority(syscall.PRIO_PROCESS, tid, 11)
}

// damage changes a byte of a mapping that the report names.
func damage(pid int, report []string) error {
	for _, line := range report {
		var at, size int64
		if n, _ := fmt.Sscanf(line, "memory private 0x%x+%d", &at, &size); n == 2 {
			return flip(pid, at+size-1)
		}
	}
	return fmt.Errorf("no private mapping in %q", report)
}

// flip changes a bit of a process's memory.
func flip(pid int, at int64) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 0x40
	_, err = f.WriteAt(b, at)
	return err
}

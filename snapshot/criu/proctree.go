package criu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// states maps the processes of a tree to their states, as /proc/PID/stat has them.
type states map[int]byte

// stopped says whether a state is that of a task which a signal ('T') or a tracer ('t') keeps from running.
func stopped(state byte) bool { return state == 'T' || state == 't' }

// tree returns the states of root and its descendants; it is empty when root is gone.
func tree(root int) states {
	s := make(states)
	below, _ := proc.Children(root)
	for _, pid := range append([]int{root}, below...) {
		if state, err := proc.State(pid); err == nil {
			s[pid] = state
		}
	}
	return s
}

// thaw looks after a tree whose dump is over: every task that ran before must run again. CRIU's ptrace stops end with
// it; what a task may be left with is a stop by signal, which is undone here. The error names the tasks that stay
// stopped.
func thaw(root int, before states) error {
	var still states
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		still = make(states)
		for pid, state := range tree(root) {
			if !stopped(state) || stopped(before[pid]) {
				continue
			}
			still[pid] = state
			if state == 'T' {
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}
		}
		if len(still) == 0 || time.Now().After(deadline) {
			break
		}
	}
	var errs []error
	for pid, state := range still {
		errs = append(errs, fmt.Errorf("process %d is still stopped (state %c)", pid, state))
	}
	return errors.Join(errs...)
}

// casualties names the tasks of a dump that have ended since. A task into which a CRIU that was killed had just put code
// of its own dies of it, a moment later: while that code is in a task, all its signals are blocked.
func casualties(before states) error {
	deadline := time.Now().Add(5 * time.Second) // a busy machine takes its time to run it
	var errs []error
	for pid, state := range before {
		for !gone(pid) && infected(pid) && time.Now().Before(deadline) {
			time.Sleep(2 * time.Millisecond)
		}
		if state != 'Z' && gone(pid) {
			errs = append(errs, fmt.Errorf("process %d did not survive", pid))
		}
	}
	return errors.Join(errs...)
}

// infected says whether a task has the signal mask that CRIU gives to those into which it puts code: everything but
// SIGTRAP, and what cannot be blocked.
func infected(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return strings.Contains(string(status), "SigBlk:\tfffffffffffbfeef")
}

// gone says whether a process has ended, reaped or not.
func gone(pid int) bool {
	state, err := proc.State(pid)
	return err != nil || state == 'Z' || state == 'X'
}

// reap kills a process and its descendants and, where it is a child of ours, waits for it.
func reap(pid int) error {
	for member := range tree(pid) {
		_ = syscall.Kill(member, syscall.SIGKILL)
	}
	for deadline := time.Now().Add(exitWait); ; time.Sleep(2 * time.Millisecond) {
		got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		switch {
		case got == pid || errors.Is(err, syscall.ECHILD):
			return nil
		case err != nil && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case time.Now().After(deadline):
			return fmt.Errorf("process %d does not die", pid)
		}
	}
}

// sweep ends what a dead criu left of itself: the processes of its session, which it has to itself. Those of a tree under
// restoration are in it until they get one of their own, and then their root is known.
func sweep(session int) error {
	for range 100 {
		left := members(session)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			if err := reap(pid); err != nil {
				return err
			}
		}
	}
	return errors.New("processes of a dead criu come faster than they can be killed")
}

// members returns the processes of a session that have not ended, and those that have and are children of ours.
func members(session int) []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile("/proc/" + name + "/stat")
		// After the name, in parentheses: state, parent, process group, session.
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) > 3 && f[3] == strconv.Itoa(session) && (!gone(pid) || f[1] == strconv.Itoa(os.Getpid())) {
			pids = append(pids, pid)
		}
	}
	return pids
}

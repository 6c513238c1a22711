// Package fault holds failpoints: named places at which a test can make the process fail, stop or die.
//
// The environment variable SNAPD_CTR_FAULT holds a comma-separated list of NAME=ACTION, where ACTION is "error" (Point
// returns an error), "kill" (the process kills itself with SIGKILL), "sleep:DURATION", or "signal:PIDFILE" (SIGKILL to
// the process whose id the file holds). A failpoint costs one map look-up when the variable is not set.
package fault

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// Variable is the name of the environment variable that arms failpoints.
const Variable = "SNAPD_CTR_FAULT"

// ErrInjected is the error that an armed failpoint returns.
var ErrInjected = errors.New("injected fault")

var armed = sync.OnceValue(func() map[string]string {
	m := make(map[string]string)
	for item := range strings.SplitSeq(os.Getenv(Variable), ",") {
		if name, action, ok := strings.Cut(item, "="); ok {
			m[name] = action
		}
	}
	return m
})

// Point acts as the failpoint's name is armed; it returns nil where it is not.
func Point(name string) error {
	action, ok := armed()[name]
	if !ok {
		return nil
	}
	verb, arg, _ := strings.Cut(action, ":")
	switch verb {
	case "error":
		return fmt.Errorf("%w at %s", ErrInjected, name)
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute) // the signal is on its way
	case "sleep":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return fmt.Errorf("failpoint %s: %w", name, err)
		}
		time.Sleep(d)
	case "signal":
		b, err := os.ReadFile(arg)
		if err != nil {
			return fmt.Errorf("failpoint %s: %w", name, err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || pid <= 1 {
			return fmt.Errorf("failpoint %s: %q holds no process id", name, arg)
		}
		return kill(pid)
	default:
		return fmt.Errorf("failpoint %s: unknown action %q", name, action)
	}
	return nil
}

// kill kills a process and waits for its end: on a busy machine it would go on for a while, and what is to be tested is
// what happens without it.
func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if state, err := proc.State(pid); err != nil || state == 'Z' || state == 'X' {
			return nil
		}
	}
	return fmt.Errorf("process %d does not die", pid)
}

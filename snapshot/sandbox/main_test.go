package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/vishvananda/netlink"
)

// inside is in the environment of the process that has the namespaces.
const inside = "SANDBOX_TEST_INSIDE"

// TestMain runs the tests in mount and network namespaces of their own, so that nothing they do can stay on the host.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-test.fuzzworker") { // a child of a process that is inside
		os.Exit(m.Run())
	}
	if os.Getenv(inside) != "" {
		if err := setUp(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests need root: they make namespaces, mounts and cgroups")
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	StartPrivate(cmd)
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func setUp() error {
	if err := Slave(); err != nil {
		return err
	}
	// CRIU keeps what it knows of the kernel in a file of its run directory if that is a tmpfs, and finds it out over lo.
	if err := sys.MountTmpfs("/run", "mode=755"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

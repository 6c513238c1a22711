// Command snapd-ctr-shim is the parent of the processes of one container that was run, or of all clones of one snapshot.
// snapd-ctr starts it; people have no reason to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // device rules in cgroups
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters namespaces before Go starts
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/sirupsen/logrus"

	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// init keeps main on the process's first thread, on which everything is initialised: once main has begun it may be on any.
func init() { runtime.LockOSThread() }

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "init" {
		libcontainer.Init() // becomes the container's program; does not return
	}
	run := serveAside
	if len(args) > 0 && args[0] == shim.DetachArg {
		run, args = detach, args[1:]
	}
	if len(args) == 1 && args[0] == guardArg {
		run = guard
	}
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, "snapd-ctr-shim:", err)
		os.Exit(1)
	}
}

// serveAside serves on other threads than the process's first, which it keeps for itself. Threads that have entered a
// container's namespaces are given up and end; the first one cannot end. It would stay there, keep the container's
// mounts alive, and /proc/self would show them instead of ours.
func serveAside(args []string) error {
	if syscall.Gettid() != os.Getpid() {
		return errors.New("not started on the first thread")
	}
	done := make(chan error)
	go func() { done <- serve(args) }()
	return <-done
}

// detach starts the shim as a process whose parent, this one, is gone at once.
func detach(args []string) error {
	// Descriptors that we were given by accident must not live as long as containers do.
	if err := utils.CloseExecFrom(3); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(shim.ReadyFD, "ready")}
	sandbox.StartPrivate(cmd)
	return cmd.Start()
}

func serve(args []string) error {
	syscall.CloseOnExec(shim.ReadyFD)
	syscall.Umask(0o022)
	signal.Ignore(syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := sandbox.Slave(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	logrus.SetLevel(logrus.WarnLevel) // libcontainer's
	p, socket, err := newParent(args, log)
	if err != nil {
		return err
	}
	l, err := shim.Listen(socket)
	if err != nil {
		return err
	}
	defer l.Close()
	ready := os.NewFile(shim.ReadyFD, "ready")
	if _, err := ready.Write([]byte{'\n'}); err != nil {
		log.Warn("whoever started the shim is gone", "error", err)
	}
	ready.Close()
	err = shim.Serve(ctx, l, p, log)
	p.end()
	return err
}

func newParent(args []string, log *slog.Logger) (p *parent, socket string, err error) {
	var paths shim.Paths
	flags := flag.NewFlagSet("snapd-ctr-shim", flag.ContinueOnError)
	flags.StringVar(&socket, "socket", "", "`path` of the unix socket to listen on")
	flags.StringVar(&paths.Root, "root", "", "`directory` of persistent state")
	flags.StringVar(&paths.Run, "run", "", "`directory` of run-time state")
	flags.StringVar(&paths.CRIU, "criu", "", "`path` of criu")
	flags.StringVar(&paths.Bridge, "bridge", "", "`name` of the bridge")
	flags.StringVar(&paths.Subnet, "subnet", "", "`prefix` of the bridge's subnet")
	if err := flags.Parse(args); err != nil {
		return nil, "", err
	}
	bridge := sandbox.Bridge{Name: paths.Bridge, Dir: paths.Leases()}
	if paths.Subnet != "" {
		if bridge.Subnet, err = netip.ParsePrefix(paths.Subnet); err != nil {
			return nil, "", fmt.Errorf("subnet: %w", err)
		}
	}
	engines := newEngines(paths, bridge, log)
	return &parent{
		paths: paths, bridge: bridge, socket: socket, log: log,
		engine: engines, templates: engines.template,
		containers: make(map[string]*container),
	}, socket, nil
}

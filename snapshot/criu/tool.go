package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Tool is a criu binary and how it is run. It is a value: copies are independent, and any number of operations may
// run at once.
type Tool struct {
	Path string // the binary
	// Plugins, if not empty, is the directory with our plugin for dumps (scripts/criu-plugin) and nothing else. Without it
	// the calls with a timeout that tasks are in fail with EINTR where the tasks run on after a dump.
	Plugins string

	// Launch, if not nil, is called with the function that starts criu. What CRIU restores counts the thread that called
	// that function as its parent.
	Launch func(start func() error) error
}

// start starts cmd on the thread that it is to be started on.
func (t Tool) start(cmd *exec.Cmd) error {
	if t.Launch != nil {
		return t.Launch(cmd.Start)
	}
	return cmd.Start()
}

const (
	oldestMajor, oldestMinor = 4, 2
	setupHint                = "run `make setup`, which builds a CRIU that is recent enough into the project's own prefix"
)

// Version returns the version of the binary, such as "4.2.1".
func (t Tool) Version(ctx context.Context) (string, error) {
	v, err := t.version(ctx)
	if err != nil {
		return "", err
	}
	s := fmt.Sprintf("%d.%d", v.GetMajorNumber(), v.GetMinorNumber())
	if v.Sublevel != nil {
		s += fmt.Sprintf(".%d", v.GetSublevel())
	}
	return s, nil
}

func (t Tool) version(ctx context.Context) (*rpc.CriuVersion, error) {
	resp, err := t.ask(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()})
	if err == nil && !resp.GetSuccess() {
		err = errors.New("criu refused to tell its version")
	}
	if err != nil {
		return nil, &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "ask the version of", On: t.Path, Err: err, Hint: setupHint}
	}
	return resp.GetVersion(), nil
}

// ask sends one request that needs no options and returns the answer. It takes no longer than 30 seconds.
func (t Tool) ask(ctx context.Context, req *rpc.CriuReq) (*rpc.CriuResp, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := t.open(nil, nil, "")
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.send(req); err != nil {
		return nil, err
	}
	m, err := s.recv(ctx)
	if err != nil {
		return nil, err
	}
	m.drop()
	return m.resp, nil
}

// Check finds out whether the binary is recent enough (4.2) and whether it works on this kernel. The error is of kind
// unsupported and has a remedy.
func (t Tool) Check(ctx context.Context) error {
	v, err := t.version(ctx)
	if err != nil {
		return err
	}
	if v.GetMajorNumber() < oldestMajor || v.GetMajorNumber() == oldestMajor && v.GetMinorNumber() < oldestMinor {
		return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "check", On: t.Path, Hint: setupHint,
			Err: fmt.Errorf("CRIU is version %d.%d, and %d.%d or newer is needed", v.GetMajorNumber(), v.GetMinorNumber(), oldestMajor, oldestMinor)}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// The command line's check, not the protocol's: the latter probes nothing unless it is given a log file.
	cmd := exec.Command(t.Path, "--no-default-config", "check")
	cmd.Env = environment(nil)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := t.start(cmd); err != nil {
		return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "check", On: t.Path, Err: err, Hint: setupHint}
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	stop()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	why := firstError(out.String())
	if why == "" {
		why = err.Error()
	}
	return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "check", On: t.Path, Err: errors.New(why), Log: out.String(),
		Hint: "the kernel lacks what CRIU needs, or this process lacks privileges: run as root, on a kernel with CONFIG_CHECKPOINT_RESTORE"}
}

// environment is that of criu: nothing of ours but PATH, no plugin directory of the host, and what extra adds.
func environment(extra []string) []string {
	path := os.Getenv("PATH")
	if !strings.Contains(path, "sbin") {
		path += ":/usr/sbin:/sbin" // criu runs ip and, for network locks, iptables-restore
	}
	// A directory that exists everywhere and never has a plugin in it.
	return append([]string{"PATH=" + path, "CRIU_LIBS_DIR=/proc/self/ns"}, extra...)
}

package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const (
	spawnTimeout = 20 * time.Second
	logTail      = 4 << 10
)

// DetachArg is the first argument that makes the shim's binary an intermediate: it starts the shim, with the other
// arguments, in a mount namespace of its own, and ends.
const DetachArg = "detach"

// ReadyFD is the descriptor on which a shim started by [Spawn] says that it listens, by writing a byte.
const ReadyFD = 3

// SpawnOptions says which shim is wanted.
type SpawnOptions struct {
	Binary string // the snapd-ctr-shim executable
	Group  string // whose processes it is the parent of: a container's id, or a snapshot's
	Paths  Paths
	Log    string // file to which a new shim's messages are appended; created if needed, mode 0600
}

// Spawn returns a client of the group's shim, and starts that shim if there is none. Two callers that race get the same
// one. The new shim has a session and a mount namespace of its own, "/" as its directory, and of our environment only
// PATH and what starts with SNAPD_CTR_. It is not our child: when it ends, the host's first process (or the nearest
// subreaper) reaps it; where that one reaps nothing, a single zombie for each shim stays.
func Spawn(ctx context.Context, o SpawnOptions) (*Client, error) {
	if err := checkGroup(o.Group); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, spawnTimeout, fmt.Errorf("no answer in %s", spawnTimeout))
	defer cancel()
	socket := o.Paths.Socket(o.Group)
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	l, err := takeLock(ctx, lockOf(socket))
	if err != nil {
		return nil, err
	}
	defer l.release()
	if _, err := os.Lstat(socket); err == nil {
		c, err := Dial(ctx, socket)
		if err == nil || snapshot.KindOf(err) != snapshot.KindUnreachable {
			return c, err
		}
	}
	if err := o.start(ctx, socket); err != nil {
		return nil, err
	}
	return Dial(ctx, socket)
}

// start runs the intermediate and waits until the shim behind it listens.
func (o SpawnOptions) start(ctx context.Context, socket string) error {
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("log of the shim: %w", err)
	}
	defer log.Close()
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := o.command(ctx, socket)
	cmd.Stderr, cmd.ExtraFiles = log, []*os.File{theirs}
	err = cmd.Run() // the intermediate only; it ends at once
	theirs.Close()
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		if _, err = ready.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			err = errors.New("it ended before it listened")
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	return &snapshot.Error{Kind: snapshot.KindFailed, Op: "start shim", On: o.Group, Err: err, Log: tail(log, from),
		Hint: "its messages are in " + o.Log}
}

func (o SpawnOptions) command(ctx context.Context, socket string) *exec.Cmd {
	p := o.Paths
	cmd := exec.CommandContext(ctx, o.Binary, DetachArg, "-socket", socket, "-root", p.Root, "-run", p.Run, "-criu", p.CRIU,
		"-bridge", p.Bridge, "-subnet", p.Subnet)
	cmd.Dir = "/"
	cmd.Env = []string{}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "PATH=") || strings.HasPrefix(v, "SNAPD_CTR_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// tail returns the end of what was written to the log since an offset.
func tail(log *os.File, from int64) string {
	if end, err := log.Seek(0, io.SeekEnd); err == nil && end-from > logTail {
		from = end - logTail
	}
	b := make([]byte, logTail)
	n, _ := log.ReadAt(b, from)
	return string(bytes.TrimSpace(b[:n]))
}

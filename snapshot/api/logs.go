package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// followEvery is how often a followed log is looked at.
const followEvery = 100 * time.Millisecond

// Logs copies what a container wrote.
func (l *Local) Logs(ctx context.Context, ref string, r LogsRequest) error {
	c, err := l.Container(ctx, ref)
	if err != nil {
		return err
	}
	log, err := openLogFiles(l.cfg.Root, c.ID)
	if err != nil {
		return err
	}
	defer log.Close()
	if r.Tail >= 0 {
		if err := log.seekTail(r.Tail); err != nil {
			return err
		}
	}
	for {
		// Whether the container runs is asked before reading: what it wrote before it ended is then all read.
		ended := l.ended(c.ID)
		if err := log.copyTo(func(line []byte) error { return emit(line, r) }); err != nil {
			return err
		}
		if !r.Follow || ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// ended says whether a container has exited, or is gone altogether.
func (l *Local) ended(id string) bool {
	c, err := shim.ReadContainer(l.cfg.Root, id)
	return err != nil || c.Status == snapshot.StatusExited || !running(&c) && !shimAlive(&c)
}

func emit(b []byte, r LogsRequest) error {
	var line shim.LogEntry
	if err := json.Unmarshal(b, &line); err != nil {
		return nil // torn by a crash; what comes after it is sound
	}
	w := r.Stdout
	if line.Stream == "stderr" {
		w = r.Stderr
	}
	if r.Timestamps {
		if _, err := fmt.Fprint(w, line.Time.Format(time.RFC3339Nano), " "); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, line.Log)
	return err
}

// shimAlive says whether the process that writes a container's log and record still exists.
func shimAlive(c *snapshot.Container) bool {
	state, err := proc.State(c.ShimPid)
	return err == nil && state != 'Z' && state != 'X'
}

// lineReader reads whole lines of a file that grows.
type lineReader struct {
	file *os.File
	buf  *bufio.Reader
	part []byte // of a line whose end is not written yet
}

func newLineReader(f *os.File) *lineReader { return &lineReader{file: f, buf: bufio.NewReader(f)} }

// copyTo calls emit with each line that there is by now.
func (r *lineReader) copyTo(emit func([]byte) error) error {
	for {
		b, err := r.buf.ReadBytes('\n')
		r.part = append(r.part, b...)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := emit(r.part); err != nil {
			return err
		}
		r.part = r.part[:0]
	}
}

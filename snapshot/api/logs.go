package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// logLine is one line of a container's log, in the form of Docker's json-file driver.
type logLine struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// followEvery is how often a followed log is looked at.
const followEvery = 100 * time.Millisecond

// Logs copies what a container wrote.
func (l *Local) Logs(ctx context.Context, ref string, r LogsRequest) error {
	c, err := l.Container(ctx, ref)
	if err != nil {
		return err
	}
	f, err := os.Open(shim.LogFile(l.cfg.Root, c.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if r.Tail >= 0 {
		if err := seekTail(f, r.Tail); err != nil {
			return err
		}
	}
	reader := bufio.NewReader(f)
	var part []byte
	for {
		// Whether the container runs is asked before reading: what it wrote before it ended is then all read.
		ended := l.ended(c.ID)
		for {
			b, err := reader.ReadBytes('\n')
			part = append(part, b...)
			if err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			if err := emit(part, r); err != nil {
				return err
			}
			part = part[:0]
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
	var line logLine
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

// seekTail moves to the beginning of the last n lines, reading backwards.
func seekTail(f *os.File, n int) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	at, newlines := end, 0
	for at > 0 {
		size := min(at, int64(len(buf)))
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil {
			return err
		}
		for chunk := buf[:size]; ; {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			// The newline that ends the last line begins no line.
			if newlines++; newlines > n {
				_, err := f.Seek(at+int64(i)+1, io.SeekStart)
				return err
			}
			chunk = chunk[:i]
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// shimAlive says whether the process that writes a container's log and record still exists.
func shimAlive(c *snapshot.Container) bool {
	_, err := proc.StartTime(c.ShimPid)
	return err == nil
}

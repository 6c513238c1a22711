package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// maxEntry is the longest piece of a line that becomes one entry of the log. Docker splits at the same length.
const maxEntry = 16 << 10

// output takes what a container writes and appends it to the container's log, lines of JSON as Docker's json-file driver
// writes them. A line that is longer than an entry, or that the container never ended, gives entries without a newline at
// their end. Output that cannot be stored, on a full disk, is lost: the container is not held up. A log that would
// become longer than the limit becomes the older one, and a new one is begun.
type output struct {
	path, older string
	limit       int64      // 0: none
	ends        []*os.File // read ends
	pumps       sync.WaitGroup

	mu   sync.Mutex
	file *os.File
	size int64
}

// openOutput opens the log of a container.
func openOutput(root string, record snapshot.Container) (*output, error) {
	o := &output{path: shim.LogFile(root, record.ID), older: shim.OlderLogFile(root, record.ID), limit: record.LogMaxBytes}
	var err error
	if o.file, err = openLog(o.path); err != nil {
		return nil, err
	}
	return o, nil
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// pipe returns the write end of a new pipe whose content is logged.
func (o *output) pipe(stream string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o.take(r, stream)
	return w, nil
}

// take logs what can be read from a file, and owns it. A nil file is passed over.
func (o *output) take(r *os.File, stream string) {
	if r == nil {
		return
	}
	o.ends = append(o.ends, r)
	o.pumps.Go(func() { o.pump(r, stream) })
}

func (o *output) pump(r io.Reader, stream string) {
	buf := make([]byte, 0, 1<<10) // grows for those who write long lines
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		now := time.Now().UTC()
		buf = buf[:len(buf)+n]
		for {
			i := bytes.IndexByte(buf, '\n')
			if i < 0 {
				break
			}
			o.write(buf[:i+1], stream, now)
			buf = append(buf[:0], buf[i+1:]...)
		}
		if len(buf) == cap(buf) && len(buf) < maxEntry {
			buf = append(make([]byte, 0, min(4*cap(buf), maxEntry)), buf...)
		}
		if len(buf) > 0 && (len(buf) == maxEntry || err != nil) {
			o.write(buf, stream, now)
			buf = buf[:0]
		}
		if err != nil { // the end, EIO from a terminal without a slave, or closed by drain
			return
		}
	}
}

func (o *output) write(line []byte, stream string, now time.Time) {
	b, err := json.Marshal(shim.LogEntry{Log: string(line), Stream: stream, Time: now})
	if err != nil {
		return
	}
	b = append(b, '\n')
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.limit > 0 && o.size > 0 && o.size+int64(len(b)) > o.limit {
		o.rotate()
	}
	n, _ := o.file.Write(b)
	o.size += int64(n)
}

// rotate begins a new log. Where that cannot be done the old one goes on.
func (o *output) rotate() {
	if err := os.Rename(o.path, o.older); err != nil {
		return
	}
	f, err := openLog(o.path)
	if err != nil {
		_ = os.Rename(o.older, o.path)
		return
	}
	o.file.Close()
	o.file, o.size = f, 0
}

// drain waits until everything written has been logged, at most for the time given, and closes the log.
func (o *output) drain(limit time.Duration) {
	deadline := time.Now().Add(limit)
	for _, r := range o.ends {
		if err := r.SetReadDeadline(deadline); errors.Is(err, os.ErrNoDeadline) {
			r.Close()
		}
	}
	o.pumps.Wait()
	for _, r := range o.ends {
		r.Close()
	}
	o.file.Close()
}

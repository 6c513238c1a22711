package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const (
	maxLine  = 4 << 20 // bytes of one request or reply; a clone's carries the whole record of a snapshot
	maxFiles = 3       // descriptors with one request
)

var (
	errTooLong      = fmt.Errorf("longer than %d bytes", maxLine)
	errTooManyFiles = fmt.Errorf("more than %d descriptors", maxFiles)
)

// readLine reads one line and the descriptors that came with it. The caller closes the files, which are returned also
// with an error.
func readLine(c *net.UnixConn) (line []byte, files []*os.File, err error) {
	buf := make([]byte, 32<<10)
	oob := make([]byte, syscall.CmsgSpace(4*2*maxFiles))
	for {
		n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
		more, cerr := filesOf(oob[:oobn])
		files = append(files, more...)
		switch {
		case err != nil:
			return nil, files, err
		case cerr != nil:
			return nil, files, cerr
		case flags&syscall.MSG_CTRUNC != 0 || len(files) > maxFiles:
			return nil, files, errTooManyFiles
		case n == 0:
			return nil, files, io.EOF
		}
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			return append(line, buf[:i]...), files, nil
		}
		line = append(line, buf[:n]...)
		if len(line) > maxLine {
			return nil, files, errTooLong
		}
	}
}

func filesOf(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// writeLine sends a value as one line of JSON, the descriptors with its first byte.
func writeLine(c *net.UnixConn, v any, files []*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		n, _, err := c.WriteMsgUnix(b, syscall.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
	_, err = c.Write(b)
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// failureOf makes an error ready for the wire. Where it has no [snapshot.Error] at its top the operation and the
// container stand in.
func failureOf(err error, op Op, id string) *Failure {
	f := &Failure{Kind: snapshot.KindOf(err), Op: string(op), On: snapshot.ShortID(id), Message: err.Error(),
		Hint: snapshot.HintOf(err), Log: snapshot.LogOf(err)}
	if e, ok := err.(*snapshot.Error); ok { //nolint:errorlint // only the very top has the words; below it they are in the message
		f.Op, f.On, f.Message = e.Op, e.On, ""
		if e.Err != nil {
			f.Message = e.Err.Error()
		}
	}
	return f
}

// asError turns a failure back into the error it was made of.
func (f *Failure) asError() error {
	e := &snapshot.Error{Kind: f.Kind, Op: f.Op, On: f.On, Hint: f.Hint, Log: f.Log}
	if f.Message != "" {
		e.Err = errors.New(f.Message)
	}
	return e
}

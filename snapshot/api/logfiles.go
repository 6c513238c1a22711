package api

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// logFiles is a container's log across its files: the one that is being written and the one before. It holds them open,
// so that what is still to be read stays when a newer one takes their place.
type logFiles struct {
	root, id string
	unread   []*lineReader // oldest first; the last is, or was, the one being written
}

// openLogFiles opens the files that there are; there may be none.
func openLogFiles(root, id string) (*logFiles, error) {
	l := &logFiles{root: root, id: id}
	return l, l.next(nil)
}

func (l *logFiles) Close() {
	for _, r := range l.unread {
		r.file.Close()
	}
}

// open opens the older log and the log, those that exist, as they stood at one moment.
func (l *logFiles) open() ([]*os.File, error) {
	// Between the renaming of the old log and the making of the new one there is none for a moment; after a crash, for
	// good.
	for range 10 {
		log, err := os.Open(shim.LogFile(l.root, l.id))
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(shim.OlderLogFile(l.root, l.id)); err != nil {
				return nil, nil
			}
			time.Sleep(time.Millisecond)
			continue
		} else if err != nil {
			return nil, err
		}
		older, err := os.Open(shim.OlderLogFile(l.root, l.id))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Close()
			return nil, err
		}
		if l.current(log) {
			if older == nil {
				return []*os.File{log}, nil
			}
			return []*os.File{older, log}, nil
		}
		log.Close()
		older.Close() // of nil: an error, and nothing else
	}
	older, err := os.Open(shim.OlderLogFile(l.root, l.id))
	if err != nil {
		return nil, err
	}
	return []*os.File{older}, nil
}

// current says whether the file is the one that is being written.
func (l *logFiles) current(f *os.File) bool {
	there, err := os.Stat(shim.LogFile(l.root, l.id))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) // no newer one
	}
	mine, err := f.Stat()
	return err == nil && os.SameFile(mine, there)
}

// copyTo calls emit with each line that there is by now.
func (l *logFiles) copyTo(emit func([]byte) error) error {
	if len(l.unread) == 0 {
		if err := l.next(nil); err != nil {
			return err
		}
	}
	for len(l.unread) > 0 {
		r := l.unread[0]
		last := len(l.unread) == 1
		// Whether it is still being written is asked before reading: after that nothing is added to it.
		grows := last && l.current(r.file)
		if err := r.copyTo(emit); err != nil {
			return err
		}
		if grows {
			return nil
		}
		if last {
			read, err := r.file.Stat()
			if err != nil {
				return err
			}
			if err := l.next(read); err != nil {
				return err
			}
		}
		r.file.Close()
		l.unread = l.unread[1:]
	}
	return nil
}

// next appends the files that came after the one that has been read, or all. When they came faster than they could be
// read, those between are lost.
func (l *logFiles) next(read os.FileInfo) error {
	files, err := l.open()
	if err != nil {
		return err
	}
	for _, f := range files {
		if info, err := f.Stat(); err == nil && read != nil && os.SameFile(info, read) {
			f.Close()
			continue
		}
		l.unread = append(l.unread, newLineReader(f))
	}
	return nil
}

// seekTail passes over all but the last n lines.
func (l *logFiles) seekTail(n int) error {
	for i := len(l.unread) - 1; i >= 0; i-- {
		found, err := seekTail(l.unread[i].file, n)
		if err != nil {
			return err
		}
		n -= found
	}
	return nil
}

// seekTail moves to the beginning of the last n lines, reading backwards, and returns how many there are, at most n.
func seekTail(f *os.File, n int) (int, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	at, newlines := end, 0
	for at > 0 {
		size := min(at, int64(len(buf)))
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil {
			return 0, err
		}
		for chunk := buf[:size]; ; {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			// The newline that ends the last line begins no line.
			if newlines++; newlines > n {
				_, err := f.Seek(at+int64(i)+1, io.SeekStart)
				return n, err
			}
			chunk = chunk[:i]
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return newlines, err
}

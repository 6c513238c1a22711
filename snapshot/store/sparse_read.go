package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// sparing passes an archive on to whoever unpacks it below root, byte by byte, but for the sparse files (GNU tar's PAX
// formats): of those it passes on empty ones, and gives each its content, without touching the holes, as soon as it has
// been made. It has been made when the reader asks for what comes next.
type sparing struct {
	ctx   context.Context
	root  *os.File
	src   *tee
	in    *tar.Reader // of src
	out   bytes.Buffer
	body  bool        // in is within the content of an entry that is passed on
	made  *tar.Header // a sparse file that is being made
	parts []extent    // of it
	err   error
}

func newSparing(ctx context.Context, root *os.File, r io.Reader) *sparing {
	src := &tee{r: r}
	return &sparing{ctx: ctx, root: root, src: src, in: tar.NewReader(src)}
}

// tee keeps what is read through it, and counts it.
type tee struct {
	r    io.Reader
	kept bytes.Buffer
	n    int64
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.kept.Write(p[:n])
	t.n += int64(n)
	return n, err
}

func (s *sparing) Read(p []byte) (int, error) {
	for s.out.Len() == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.err = s.more()
	}
	return s.out.Read(p)
}

// more does one step: it fills out, or writes a file.
func (s *sparing) more() error {
	defer s.src.kept.Reset()
	switch {
	case s.made != nil:
		h := s.made
		s.made = nil
		return s.write(h)
	case s.body:
		_, err := io.CopyN(io.Discard, s.in, 64<<10)
		if errors.Is(err, io.EOF) {
			s.body, err = false, nil
		}
		s.out.Write(s.src.kept.Bytes())
		return err
	}
	padding := -s.src.n & (tarBlock - 1)
	h, err := s.in.Next()
	raw := s.src.kept.Bytes()
	if err != nil {
		s.out.Write(raw) // the end of the archive, or what is wrong with it
		return err
	}
	if s.parts, err = partsOf(h, raw[padding:]); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if s.parts == nil {
		s.out.Write(raw)
		s.body = true
		return nil
	}
	s.out.Write(raw[:padding])
	s.made = h
	return s.empty(*h)
}

// partsOf returns the parts that a sparse file has, and nil for another entry. raw is what has been read of the entry:
// its headers and, in version 1.0, the list of parts, which the tar reader has found sound.
func partsOf(h *tar.Header, raw []byte) ([]extent, error) {
	major, minor, list := h.PAXRecords[paxSparse+"major"], h.PAXRecords[paxSparse+"minor"], h.PAXRecords[paxSparse+"map"]
	switch {
	case h.Typeflag != tar.TypeReg:
		return nil, nil
	case major == "1" && minor == "0":
		lines, err := behindHeaders(raw)
		if err != nil {
			return nil, err
		}
		count, rest, _ := strings.Cut(lines, "\n")
		n, err := strconv.Atoi(count)
		numbers := strings.Split(rest, "\n")
		if err != nil || n < 0 || n > len(numbers)/2 {
			return nil, errParts
		}
		return extents(numbers[:2*n])
	case major == "0" && (minor == "0" || minor == "1") || major == "" && minor == "" && list != "":
		if list == "" {
			return []extent{}, nil
		}
		return extents(strings.Split(list, ","))
	}
	return nil, nil
}

var errParts = errors.New("its list of parts cannot be read")

// behindHeaders returns what follows the headers of an entry.
func behindHeaders(raw []byte) (string, error) {
	for len(raw) >= tarBlock && strings.IndexByte("xgLK", raw[156]) >= 0 {
		size, err := strconv.ParseInt(strings.Trim(string(raw[124:136]), " \x00"), 8, 64)
		skip := tarBlock + (size+tarBlock-1)&^(tarBlock-1)
		if err != nil || size < 0 || skip > int64(len(raw)) {
			return "", errParts
		}
		raw = raw[skip:]
	}
	if len(raw) < tarBlock {
		return "", errParts
	}
	return string(raw[tarBlock:]), nil
}

// extents makes pairs of numbers parts.
func extents(numbers []string) ([]extent, error) {
	parts := make([]extent, len(numbers)/2)
	for i := range parts {
		at, err := strconv.ParseInt(numbers[2*i], 10, 64)
		if err != nil {
			return nil, errParts
		}
		size, err := strconv.ParseInt(numbers[2*i+1], 10, 64)
		if err != nil {
			return nil, errParts
		}
		parts[i] = extent{at, size}
	}
	return parts, nil
}

// empty passes the header on as that of an empty file.
func (s *sparing) empty(h tar.Header) error {
	h.Size, h.Format = 0, tar.FormatPAX
	h.PAXRecords = maps.Clone(h.PAXRecords)
	maps.DeleteFunc(h.PAXRecords, func(key, _ string) bool { return strings.HasPrefix(key, paxSparse) })
	return tar.NewWriter(&s.out).WriteHeader(&h)
}

// write gives the file that has been made its content.
func (s *sparing) write(h *tar.Header) error {
	dir, base := path.Split(path.Clean("/" + h.Name))
	parent, err := sys.OpenInRoot(s.root, dir, syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer parent.Close()
	name := sys.FDPath(parent, base)
	f, err := os.OpenFile(name, os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(s.fill(f, h.Size), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	// Writing takes away privileges that the file has been given, and the time.
	if v, ok := h.PAXRecords[paxXattr+"security.capability"]; ok {
		if err := sys.SetXattr(name, "security.capability", []byte(v)); err != nil && !errors.Is(err, syscall.ENOTSUP) {
			return err
		}
	}
	if err := os.Chmod(name, h.FileInfo().Mode()); err != nil {
		return err
	}
	return os.Chtimes(name, time.Time{}, h.ModTime)
}

// fill writes the parts of the entry. They are read past the tar reader, which would make zeros of the holes; another
// one goes on behind them.
func (s *sparing) fill(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	for _, e := range s.parts {
		to := struct{ io.Writer }{io.NewOffsetWriter(f, e.at)}
		n, err := io.CopyBuffer(to, contextReader{s.ctx, io.LimitReader(s.src.r, e.size)}, make([]byte, min(max(e.size, 1), 1<<20)))
		s.src.n += n
		if err == nil && n < e.size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	n, err := io.CopyN(io.Discard, s.src.r, -s.src.n&(tarBlock-1))
	s.src.n += n
	s.in = tar.NewReader(s.src)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

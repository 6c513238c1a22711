package store

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// paxSparse begins the records of a sparse file in a tar, as GNU tar writes it (PAX format, version 1.0): the content
// is a list of the parts that are there, and then those parts.
const paxSparse = "GNU.sparse."

const (
	tarBlock = 512
	// fewerHoles is how many bytes of holes a file must have to be written as a sparse one.
	fewerHoles = 64 << 10
	// mostExtents keeps the list of parts well below the 1 MiB that readers accept.
	mostExtents = 8192
)

// extent is a part of a file that is not a hole.
type extent struct{ at, size int64 }

// extentsOf returns the parts of a file of size bytes that are not holes. It reads none of them. A file system that
// does not tell has a file without holes.
func extentsOf(ctx context.Context, f *os.File, size int64) ([]extent, error) {
	const seekData, seekHole = 3, 4
	var list []extent
	for end := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at, err := f.Seek(end, seekData)
		switch {
		case errors.Is(err, syscall.ENXIO):
			return list, nil
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EOPNOTSUPP):
			return []extent{{0, size}}, nil
		case err != nil:
			return nil, err
		case at >= size:
			return list, nil
		}
		if end, err = f.Seek(at, seekHole); err != nil {
			return nil, err
		}
		end = min(end, size)
		list = append(list, extent{at, end - at})
	}
}

// joined closes the smallest gaps of a list that has more than most parts.
func joined(list []extent, most int) []extent {
	if len(list) <= most {
		return list
	}
	gap := func(i int) int64 { return list[i].at - list[i-1].at - list[i-1].size } // before the part i
	order := make([]int, len(list)-1)
	for i := range order {
		order[i] = i + 1
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(gap(j), gap(i)) })
	starts := order[:most-1]
	slices.Sort(starts)
	var out []extent
	first := 0
	for _, next := range append(starts, len(list)) {
		last := list[next-1]
		out = append(out, extent{list[first].at, last.at + last.size - list[first].at})
		first = next
	}
	return out
}

func stored(list []extent) (bytes int64) {
	for _, e := range list {
		bytes += e.size
	}
	return bytes
}

// regular writes an entry for the regular file f. Of a file with large holes only the rest is read and written.
func (t *tarOut) regular(h *tar.Header, f *os.File, blocks int64) error {
	if blocks*512 <= h.Size-fewerHoles {
		list, err := extentsOf(t.ctx, f, h.Size)
		if err != nil {
			return err
		}
		if list = joined(list, mostExtents); stored(list) <= h.Size-fewerHoles {
			return t.sparse(h, f, list)
		}
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	return t.copy(t, f, extent{0, h.Size}, h.Size)
}

// copy writes one part of a file of size bytes.
func (t *tarOut) copy(w io.Writer, f *os.File, e extent, size int64) error {
	n, err := io.CopyN(w, contextReader{t.ctx, io.NewSectionReader(f, e.at, e.size)}, e.size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("it shrank from %d to %d bytes while it was read", size, e.at+n)
	}
	return err
}

// sparse writes the entry past the tar writer, which knows no sparse files.
func (t *tarOut) sparse(h *tar.Header, f *os.File, list []extent) error {
	if err := t.Flush(); err != nil {
		return err
	}
	if n := len(list); n == 0 || list[n-1].at+list[n-1].size < h.Size {
		list = append(list, extent{at: h.Size}) // what tells GNU tar that a hole ends the file
	}
	parts := fmt.Appendln(nil, len(list))
	for _, e := range list {
		parts = fmt.Appendf(parts, "%d\n%d\n", e.at, e.size)
	}
	parts = padded(parts)
	size := int64(len(parts)) + stored(list)
	if _, err := t.w.Write(append(sparseHeader(h, size), parts...)); err != nil {
		return err
	}
	for _, e := range list {
		if err := t.copy(t.w, f, e, h.Size); err != nil {
			return err
		}
	}
	_, err := t.w.Write(make([]byte, -size&(tarBlock-1)))
	return err
}

func padded(b []byte) []byte { return append(b, make([]byte, -len(b)&(tarBlock-1))...) }

// sparseHeader returns the blocks that come before the content, of size bytes, of a sparse file.
func sparseHeader(h *tar.Header, size int64) []byte {
	var records bytes.Buffer
	record := func(key, value string) {
		n := len(key) + len(value) + 3 // a space, "=" and a newline
		n += len(strconv.Itoa(n + len(strconv.Itoa(n))))
		fmt.Fprintf(&records, "%d %s=%s\n", n, key, value)
	}
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		record(key, h.PAXRecords[key])
	}
	record("mtime", paxTime(h.ModTime))
	record("uid", strconv.Itoa(h.Uid))
	record("gid", strconv.Itoa(h.Gid))
	record("size", strconv.FormatInt(size, 10))
	record(paxSparse+"major", "1")
	record(paxSparse+"minor", "0")
	record(paxSparse+"name", h.Name)
	record(paxSparse+"realsize", strconv.FormatInt(h.Size, 10))
	base := path.Base(h.Name)
	out := ustarBlock(tar.TypeXHeader, "PaxHeaders.0/"+base, 0o644, int64(records.Len()))
	out = append(out, padded(records.Bytes())...)
	return append(out, ustarBlock(tar.TypeReg, "GNUSparseFile.0/"+base, h.Mode, size)...)
}

// ustarBlock returns one header. A number that has no room is in the records as well, and so is not missed.
func ustarBlock(kind byte, name string, mode, size int64) []byte {
	b := make([]byte, tarBlock)
	copy(b[:100], strings.Map(func(r rune) rune {
		if r >= 0x80 {
			return '_'
		}
		return r
	}, name))
	octal := func(field []byte, v int64) {
		if s := strconv.FormatInt(v, 8); len(s) < len(field) {
			copy(field, strings.Repeat("0", len(field)-1-len(s))+s)
		} else {
			copy(field, strings.Repeat("0", len(field)-1))
		}
	}
	octal(b[100:108], mode)
	octal(b[108:116], 0)
	octal(b[116:124], 0)
	octal(b[124:136], size)
	octal(b[136:148], 0)
	copy(b[148:156], "        ")
	b[156] = kind
	copy(b[257:265], "ustar\x0000")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum)
	return b
}

// paxTime writes a time as PAX does: seconds with a decimal fraction.
func paxTime(t time.Time) string {
	sec, nano, sign := t.Unix(), int64(t.Nanosecond()), ""
	if nano == 0 {
		return strconv.FormatInt(sec, 10)
	}
	if sec < 0 {
		sec, nano, sign = -(sec + 1), 1e9-nano, "-"
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nano), "0")
}

// zeroBlock is the size of what is looked at, at its multiples, to find zeros that need not be written or summed up.
const zeroBlock = 4096

func isZero(b []byte) bool {
	var zeros [zeroBlock]byte
	return bytes.Equal(b, zeros[:len(b)])
}

// sumOf returns a digest of a file's content that does not depend on where its holes are, without reading them.
func sumOf(ctx context.Context, f *os.File, size int64) (string, error) {
	list, err := extentsOf(ctx, f, size)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	done := int64(0)
	for _, e := range list {
		for at := max(done, e.at&^(zeroBlock-1)); at < e.at+e.size; at = done {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			done = min(at+int64(len(buf)), (e.at+e.size+zeroBlock-1)&^(zeroBlock-1))
			n, err := f.ReadAt(buf[:done-at], at)
			if err != nil && !errors.Is(err, io.EOF) {
				return "", err
			}
			for block := range slices.Chunk(buf[:n], zeroBlock) {
				if !isZero(block) {
					sum.Write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
					sum.Write(block)
				}
				at += zeroBlock
			}
		}
	}
	return fmt.Sprintf("%d %s", size, hex.EncodeToString(sum.Sum(nil))), nil
}

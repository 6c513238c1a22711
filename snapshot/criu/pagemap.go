package criu

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

const (
	pageSize = 4096

	flagParent  = 1 << 0 // the pages are in the parent image
	flagPresent = 1 << 2 // the pages are in the pages file
)

// run is one entry of a pagemap: pages in a row.
type run struct {
	addr   uint64
	pages  uint64
	flags  uint32
	offset int64 // in the pages file, where present
}

func (r run) end() uint64   { return r.addr + r.pages*pageSize }
func (r run) present() bool { return r.flags&flagPresent != 0 }

// pagemap says which pages of an address space, or of a piece of shared memory, are stored where.
type pagemap struct {
	pagesID uint32
	runs    []run // ascending, none overlapping
}

func pagesName(id uint32) string { return fmt.Sprintf("pages-%d.img", id) }

// stored returns the number of pages in the pages file.
func (p *pagemap) stored() int64 {
	var n uint64
	for _, r := range p.runs {
		if r.present() {
			n += r.pages
		}
	}
	return int64(n)
}

// readPagemap reads a pagemap image and checks it against the length of its pages file.
func readPagemap(dir, name string) (*pagemap, error) {
	records, err := readImage(dir, name, magicPagemap)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	p, err := parsePagemap(records)
	if err != nil {
		return nil, corrupt(path, "%w", err)
	}
	if p.stored() == 0 {
		return p, nil
	}
	fi, err := os.Stat(filepath.Join(dir, pagesName(p.pagesID)))
	if err != nil {
		return nil, corrupt(path, "%w", err)
	}
	if want := p.stored() * pageSize; fi.Size() < want {
		return nil, corrupt(filepath.Join(dir, pagesName(p.pagesID)), "has %d bytes of %d", fi.Size(), want)
	}
	return p, nil
}

func parsePagemap(records [][]byte) (*pagemap, error) {
	if len(records) == 0 {
		return nil, errors.New("has no head")
	}
	head, err := fields(records[0])
	if err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	if head[1] > math.MaxUint32 {
		return nil, errors.New("head: pages id out of range")
	}
	p := &pagemap{pagesID: uint32(head[1]), runs: make([]run, 0, len(records)-1)}
	var end, offset uint64
	for i, record := range records[1:] {
		r, err := parseRun(record)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if r.addr < end {
			return nil, fmt.Errorf("entry %d: out of order", i)
		}
		end = r.end()
		if r.present() {
			r.offset = int64(offset)
			if offset += r.pages * pageSize; offset > math.MaxInt64 {
				return nil, fmt.Errorf("entry %d: too many pages", i)
			}
		}
		p.runs = append(p.runs, r)
	}
	return p, nil
}

// parseRun decodes a pagemap entry of any version of CRIU: up to 4.1 the number of pages is field 2; 4.2 made it field 5,
// of 64 bits, and leaves 0 in field 2, which old readers require.
func parseRun(record []byte) (run, error) {
	f, err := fields(record)
	if err != nil {
		return run{}, err
	}
	r := run{addr: f[1], pages: f[2], flags: flagPresent}
	if n, ok := f[5]; ok {
		r.pages = n
	}
	if v, ok := f[4]; ok {
		r.flags = uint32(v)
	}
	if f[3] != 0 {
		r.flags = r.flags&^flagPresent | flagParent
	}
	if r.addr%pageSize != 0 || r.pages > (math.MaxInt64-pageSize)/pageSize || r.addr > math.MaxUint64-r.pages*pageSize {
		return run{}, fmt.Errorf("%d pages at %#x", r.pages, r.addr)
	}
	return r, nil
}

// fields returns the numbers in a protocol buffer by field; that is all that a pagemap has.
func fields(b []byte) (map[protowire.Number]uint64, error) {
	out := make(map[protowire.Number]uint64, 4)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		if typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return nil, protowire.ParseError(n)
			}
			out[num], b = v, b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return out, nil
}

// encode makes the image of a pagemap, which CRIU before and since 4.2 can read.
func (p *pagemap) encode() []byte {
	b := protowire.AppendFixed32(nil, magicCommon)
	b = protowire.AppendFixed32(b, magicPagemap)
	b = appendRecord(b, appendNumber(nil, 1, uint64(p.pagesID)))
	var entry []byte
	for _, r := range p.runs {
		entry = appendNumber(entry[:0], 1, r.addr)
		entry = appendNumber(entry, 2, min(r.pages, math.MaxUint32))
		entry = appendNumber(entry, 4, uint64(r.flags))
		entry = appendNumber(entry, 5, r.pages)
		b = appendRecord(b, entry)
	}
	return b
}

func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// mapped is a file in memory, read-only. The file must not be cut short while it is open.
type mapped []byte

// mapPages maps the pages that p says are stored.
func mapPages(dir string, p *pagemap) (mapped, error) {
	size := p.stored() * pageSize
	if size == 0 {
		return nil, nil
	}
	path := filepath.Join(dir, pagesName(p.pagesID))
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() < size {
		return nil, corrupt(path, "shorter than %d bytes", size)
	}
	return sys.MapFile(f)
}

// page returns the page at an offset.
func (m mapped) page(offset int64) []byte { return m[offset : offset+pageSize] }

func (m mapped) Close() error { return sys.UnmapFile(m) }

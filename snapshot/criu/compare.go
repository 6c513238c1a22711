package criu

import (
	"bytes"
	"slices"
)

// ComparePages counts the pages of two dumps by process id and address: in both with the same content, in only one of
// them, and in both with different content. Memory that processes share is not counted. A page that one dump stores as
// zeros and the other leaves out counts as being in only one.
func ComparePages(a, b *Images) (shared, onlyA, onlyB, differ int64, err error) {
	pids := append(a.pids(), b.pids()...)
	slices.Sort(pids)
	for _, pid := range slices.Compact(pids) {
		var c counts
		if c, err = compareProcess(a, b, pid); err != nil {
			return 0, 0, 0, 0, err
		}
		shared += c.shared
		onlyA += c.onlyA
		onlyB += c.onlyB
		differ += c.differ
	}
	return shared, onlyA, onlyB, differ, nil
}

type counts struct{ shared, onlyA, onlyB, differ int64 }

func (im *Images) pids() []uint32 {
	var out []uint32
	for _, e := range im.tree {
		out = append(out, e.GetPid())
	}
	return out
}

func compareProcess(a, b *Images, pid uint32) (c counts, err error) {
	pa, err := a.pagemap(pid)
	if err != nil {
		return c, err
	}
	pb, err := b.pagemap(pid)
	if err != nil {
		return c, err
	}
	da, err := mapPages(a.dir, pa)
	if err != nil {
		return c, err
	}
	defer da.Close()
	db, err := mapPages(b.dir, pb)
	if err != nil {
		return c, err
	}
	defer db.Close()
	i := 0 // the first run of b that may reach the run of a at hand
	for _, ra := range pa.runs {
		if !ra.present() {
			continue
		}
		for i < len(pb.runs) && pb.runs[i].end() <= ra.addr {
			i++
		}
		for _, rb := range pb.runs[i:] {
			if rb.addr >= ra.end() {
				break
			}
			if rb.present() {
				c.overlap(ra, rb, da, db)
			}
		}
	}
	c.onlyA = pa.stored() - c.shared - c.differ
	c.onlyB = pb.stored() - c.shared - c.differ
	return c, nil
}

// overlap compares the pages that two runs have in common.
func (c *counts) overlap(ra, rb run, da, db mapped) {
	for addr := max(ra.addr, rb.addr); addr < min(ra.end(), rb.end()); addr += pageSize {
		pa := da.page(ra.offset + int64(addr-ra.addr))
		pb := db.page(rb.offset + int64(addr-rb.addr))
		if bytes.Equal(pa, pb) {
			c.shared++
		} else {
			c.differ++
		}
	}
}

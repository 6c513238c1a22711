package criu

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// ElideZeros rewrites the images in dir so that pages which hold only zeros are neither stored nor mentioned, where they
// are a twentieth of all or more and CRIU restores a page that it knows nothing of as zeros: in private anonymous
// mappings and in shared memory, not in private mappings of files, where such a page shows the file. Images that
// continue a parent dump are left alone.
//
// It may be interrupted at any point: the images stay whole, though a pages file that nothing refers to may be left.
// Images must not be in use.
func ElideZeros(dir string) (snapshot.Memory, error) {
	var sum snapshot.Memory
	names, err := filepath.Glob(filepath.Join(dir, "pagemap-*.img"))
	if err != nil {
		return sum, err
	}
	_, err = os.Lstat(filepath.Join(dir, "parent"))
	whole := errors.Is(err, fs.ErrNotExist)
	taken := make(map[uint32]bool)
	maps := make(map[string]*pagemap)
	for i, name := range names {
		names[i] = filepath.Base(name)
		p, err := readPagemap(dir, names[i])
		if err != nil {
			return sum, err
		}
		if taken[p.pagesID] {
			return sum, corrupt(name, "shares %s with another", pagesName(p.pagesID))
		}
		taken[p.pagesID] = true
		maps[names[i]] = p
	}
	for _, name := range names {
		p := maps[name]
		sum.Pages += p.stored()
		if !whole {
			continue
		}
		ranges, err := zeroable(dir, name)
		if err != nil {
			return sum, err
		}
		id := freeID(dir, taken)
		n, err := elide(dir, name, p, ranges, id)
		if err != nil {
			return sum, err
		}
		taken[id] = true
		sum.ZeroPages += n
	}
	sum.Bytes = (sum.Pages - sum.ZeroPages) * pageSize
	return sum, nil
}

// freeID returns an id that no pages file has.
func freeID(dir string, taken map[uint32]bool) uint32 {
	for id := uint32(1); ; id++ {
		if _, err := os.Lstat(filepath.Join(dir, pagesName(id))); !taken[id] && errors.Is(err, fs.ErrNotExist) {
			return id
		}
	}
}

// span is a range of addresses.
type span struct{ start, end uint64 }

// zeroable returns the addresses of a pagemap where a page that is not mentioned is restored as zeros, ascending.
func zeroable(dir, name string) ([]span, error) {
	if strings.HasPrefix(name, "pagemap-shmem-") {
		return []span{{0, ^uint64(0)}}, nil
	}
	var pid uint32
	if _, err := fmt.Sscanf(name, "pagemap-%d.img", &pid); err != nil || name != fmt.Sprintf("pagemap-%d.img", pid) {
		return nil, nil
	}
	space := &mm.MmEntry{}
	if err := readOne(dir, fmt.Sprintf("mm-%d.img", pid), magicMM, space); err != nil {
		return nil, err
	}
	var out []span
	for _, v := range space.GetVmas() {
		if plainAnonymous(v) && v.GetStart() < v.GetEnd() {
			out = append(out, span{v.GetStart(), v.GetEnd()})
		}
	}
	slices.SortFunc(out, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	return out, nil
}

func plainAnonymous(v *vma.VmaEntry) bool {
	const plain = VMARegular | VMAStack | VMAHeap | VMAAnonPrivate
	s, f := v.GetStatus(), v.GetFlags()
	return s&(VMARegular|VMAAnonPrivate) == VMARegular|VMAAnonPrivate && s&^plain == 0 &&
		f&mapAnonymous != 0 && f&(mapShared|mapHuge) == 0
}

// worthwhile is the part of a pages file that must be zeros, one in so many, for the file to be written again without
// them: to copy a hundred megabytes for the sake of one takes longer than it saves.
const worthwhile = 20

// elide drops the zero pages of one pagemap that lie within ranges and returns how many there were. The pages that stay
// go to a new pages file; the rename of the new pagemap, which refers to it, is the moment of change.
func elide(dir, name string, p *pagemap, ranges []span, id uint32) (int64, error) {
	data, err := mapPages(dir, p)
	if err != nil {
		return 0, err
	}
	defer data.Close()
	thin, keep, zeros := withoutZeros(p, data, ranges)
	if zeros*worthwhile < p.stored() || zeros == 0 {
		return 0, nil
	}
	thin.pagesID = id
	if err := writeExtents(filepath.Join(dir, pagesName(id)), data, keep); err != nil {
		return 0, err
	}
	tmp := filepath.Join(dir, name+".new")
	if err := os.WriteFile(tmp, thin.encode(), 0o600); err != nil {
		return 0, err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return 0, err
	}
	return zeros, os.Remove(filepath.Join(dir, pagesName(p.pagesID)))
}

// extent is a piece of a pages file.
type extent struct{ start, end int64 }

// withoutZeros returns p without its zero pages in ranges, and where the pages that stay lie.
func withoutZeros(p *pagemap, data mapped, ranges []span) (thin *pagemap, keep []extent, zeros int64) {
	thin = &pagemap{runs: make([]run, 0, len(p.runs))}
	for _, r := range p.runs {
		if !r.present() || r.flags&flagParent != 0 {
			thin.runs = append(thin.runs, r)
			if r.present() {
				keep = addExtent(keep, r.offset, r.offset+int64(r.pages)*pageSize)
			}
			continue
		}
		piece := run{addr: r.addr, flags: r.flags}
		for i := range int64(r.pages) {
			addr, offset := r.addr+uint64(i)*pageSize, r.offset+i*pageSize
			for len(ranges) > 0 && ranges[0].end <= addr {
				ranges = ranges[1:]
			}
			if len(ranges) > 0 && ranges[0].start <= addr && isZero(data.page(offset)) {
				zeros++
				if piece.pages > 0 {
					thin.runs = append(thin.runs, piece)
				}
				piece = run{addr: addr + pageSize, flags: r.flags}
				continue
			}
			piece.pages++
			keep = addExtent(keep, offset, offset+pageSize)
		}
		if piece.pages > 0 {
			thin.runs = append(thin.runs, piece)
		}
	}
	return thin, keep, zeros
}

func addExtent(all []extent, start, end int64) []extent {
	if n := len(all); n > 0 && all[n-1].end == start {
		all[n-1].end = end
		return all
	}
	return append(all, extent{start, end})
}

// isZero says whether a page holds only zeros: whether its first byte is one and every other equals the one before it.
func isZero(page []byte) bool {
	return page[0] == 0 && bytes.Equal(page[:len(page)-1], page[1:])
}

func writeExtents(path string, data mapped, keep []extent) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	for _, e := range keep {
		if _, err := f.Write(data[e.start:e.end]); err != nil {
			return err
		}
	}
	return nil
}

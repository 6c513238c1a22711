package criu

import (
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
)

// Mapping is one memory mapping.
type Mapping struct {
	Start   uint64
	End     uint64
	Prot    string // "rwxp", as /proc/PID/maps has it
	Kind    string // "anon", "heap", "stack", "file", "shared", "memfd", "sysv", "vdso", "vvar", …
	Name    string // of the file
	Present int64  // bytes stored for this mapping
}

// Bits of a mapping's status in the images, CRIU's own.
const (
	VMARegular     = 1 << 0
	VMAStack       = 1 << 1
	VMAVsyscall    = 1 << 2
	VMAVdso        = 1 << 3
	VMAHeap        = 1 << 5
	VMAFilePrivate = 1 << 6
	VMAFileShared  = 1 << 7
	VMAAnonShared  = 1 << 8
	VMAAnonPrivate = 1 << 9
	VMASysV        = 1 << 10
	VMASocket      = 1 << 11
	VMAVvar        = 1 << 12
	VMAAIO         = 1 << 13
	VMAMemfd       = 1 << 14
	VMAShadow      = 1 << 15
	VMAGuard       = 1 << 16
	VMAPlugin      = 1 << 27 // a device plugin of CRIU knows it
	VMAUnsupported = 1 << 31
)

// Bits of mmap's flags and protection.
const (
	mapShared    = 0x1
	mapAnonymous = 0x20
	mapGrowsDown = 0x100
	mapHuge      = 0x40000
)

func (im *Images) mappings(space *mm.MmEntry, pages *pagemap) ([]Mapping, error) {
	files, err := im.files()
	if err != nil {
		return nil, err
	}
	out := make([]Mapping, 0, len(space.GetVmas()))
	next := 0 // the first run that may reach into the mapping at hand
	for _, v := range space.GetVmas() {
		m := Mapping{Start: v.GetStart(), End: v.GetEnd(), Prot: protection(v), Kind: mappingKind(v)}
		if v.GetStatus()&(VMAFilePrivate|VMAFileShared) != 0 {
			m.Name = files[uint32(v.GetShmid())].GetReg().GetName()
		}
		id := v.GetShmid()
		if v.GetStatus()&VMAMemfd != 0 {
			inode, err := im.memfd(uint32(id))
			if err != nil {
				return nil, err
			}
			id, m.Name = uint64(inode.GetShmid()), inode.GetName()
			if m.Name == "/dev/zero" { // CRIU makes shared anonymous memory a memfd
				m.Kind, m.Name = "shared", ""
			}
		}
		if v.GetFlags()&mapShared != 0 && v.GetStatus()&(VMAAnonShared|VMASysV|VMAMemfd) != 0 && v.GetEnd() > v.GetStart() {
			pages, err := im.shared(id)
			if err != nil {
				return nil, err
			}
			m.Present = present(pages.runs, v.GetPgoff(), v.GetPgoff()+v.GetEnd()-v.GetStart())
		} else {
			for next < len(pages.runs) && pages.runs[next].end() <= m.Start {
				next++
			}
			m.Present = present(pages.runs[next:], m.Start, m.End)
		}
		out = append(out, m)
	}
	return out, nil
}

// memfd returns the inode behind the memfd whose file id is given; nil where the images lack it.
func (im *Images) memfd(file uint32) (*memfd.MemfdInodeEntry, error) {
	files, err := im.files()
	if err != nil {
		return nil, err
	}
	inodes, err := im.memfds()
	if err != nil {
		return nil, err
	}
	return inodes[files[file].GetMemfd().GetInodeId()], nil
}

// present returns the number of bytes stored for the addresses from start to end.
func present(runs []run, start, end uint64) int64 {
	var n uint64
	for _, r := range runs {
		if r.addr >= end {
			break
		}
		if from, to := max(r.addr, start), min(r.end(), end); r.present() && from < to {
			n += to - from
		}
	}
	return int64(n)
}

func protection(v *vma.VmaEntry) string {
	b := []byte("---p")
	for i, c := range "rwx" {
		if v.GetProt()&(1<<i) != 0 {
			b[i] = byte(c)
		}
	}
	if v.GetFlags()&mapShared != 0 {
		b[3] = 's'
	}
	return string(b)
}

func mappingKind(v *vma.VmaEntry) string {
	s := v.GetStatus()
	for _, k := range []struct {
		bits uint32
		name string
	}{
		{VMAGuard, "guard"}, {VMAVdso, "vdso"}, {VMAVvar, "vvar"}, {VMAVsyscall, "vsyscall"}, {VMASysV, "sysv"},
		{VMASocket, "socket"}, {VMAAIO, "aio"}, {VMAMemfd, "memfd"}, {VMAShadow, "shadow-stack"}, {VMAHeap, "heap"},
		{VMAStack, "stack"}, {VMAFilePrivate | VMAFileShared, "file"}, {VMAAnonShared, "shared"},
	} {
		if s&k.bits != 0 {
			return k.name
		}
	}
	if v.GetFlags()&mapGrowsDown != 0 {
		return "stack"
	}
	return "anon"
}

// memory returns n bytes of an address space; what is not stored reads as zero.
func (im *Images) memory(pages *pagemap, addr uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	path := filepath.Join(im.dir, pagesName(pages.pagesID))
	f, err := os.Open(path)
	if err != nil {
		return nil, im.complete(err)
	}
	defer f.Close()
	end := addr + uint64(n)
	for _, r := range pages.runs {
		from, to := max(r.addr, addr), min(r.end(), end)
		if !r.present() || from >= to {
			continue
		}
		if _, err := f.ReadAt(b[from-addr:to-addr], r.offset+int64(from-r.addr)); err != nil {
			return nil, corrupt(path, "read: %w", err)
		}
	}
	return b, nil
}

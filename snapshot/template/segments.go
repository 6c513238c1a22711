package template

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// Numbers of System V shared memory and of new mounts, as in the kernel's headers.
const (
	ipcCreate    = 0o1000
	ipcExclusive = 0o2000
	ipcRemove    = 0
	ipcSet       = 1

	shmReadonly = 0o10000
	shmRemap    = 0o40000
	shmExec     = 0o100000
	shmDest     = 0o1000 // of a segment's mode: it goes when nobody has it attached
	shmAccess   = 0o777

	fsCreate  = 6
	fsCloexec = 1
	protExec  = 4
)

// shmidDS is the kernel's struct shmid64_ds, as far as it sets anything.
type shmidDS struct {
	Key, UID, GID, CUID, CGID, Mode uint32
	_                               [88]byte
}

// segments makes the segments of System V shared memory, with the ids that they had, and attaches them where they were. The
// ids are chosen in a proc file system of our own: the container's may be read-only, or not there.
func (c *compiler) segments(r *recipe.Recipe, t *criu.Task) {
	all, err := c.images.Segments()
	if err != nil {
		c.refuse("System V shared memory: %v", err)
	}
	attached := make(map[uint64][]*vma.VmaEntry)
	for _, v := range t.Space.GetVmas() {
		if v.GetStatus()&criu.VMASysV != 0 {
			attached[v.GetShmid()] = append(attached[v.GetShmid()], v)
		}
	}
	if len(all)+len(attached) == 0 {
		return
	}
	const what = "System V shared memory"
	if len(c.tree) > 1 {
		c.refuseOnce("%s in a container of several processes", what)
		return
	}
	d := r.Data()
	fs, mount, next := d.Space(8), d.Space(8), d.Space(8)
	r.Call(what, recipe.Fsopen, recipe.At(d.String("proc")), recipe.Int(fsCloexec)).Into(fs)
	r.Call(what, recipe.Fsconfig, recipe.Load(fs), recipe.Int(fsCreate), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	r.Call(what, recipe.Fsmount, recipe.Load(fs), recipe.Int(fsCloexec), recipe.Int(0)).Into(mount)
	r.Call(what, recipe.Openat, recipe.Load(mount), recipe.At(d.String("sys/kernel/shm_next_id")), recipe.Int(oWronly|oCloexec), recipe.Int(0)).Into(next)
	for _, s := range all {
		id := uint64(s.GetDesc().GetId())
		c.segment(r, next, s, attached[id])
		delete(attached, id)
	}
	for id := range attached {
		c.refuse("System V shared memory %d, which the images lack", id)
	}
	for _, fd := range []recipe.Addr{next, mount, fs} {
		r.Call(what, recipe.Close, recipe.Load(fd))
	}
}

// cannotAttach says why a segment cannot be made again, or attached where it was; nothing if it can.
func cannotAttach(s *ipc_shm.IpcShmEntry, attached []*vma.VmaEntry, stored []criu.PageRun) string {
	p, length := s.GetDesc(), (s.GetSize()+pageSize-1)&^(pageSize-1)
	switch {
	case s.GetHugetlbFlag() != 0:
		return "pages of hugetlbfs"
	case p.GetMode()&^(shmAccess|shmDest) != 0:
		return "locked in memory"
	case p.GetCuid() != 0 || p.GetCgid() != 0:
		return "made by another user than root"
	case !s.GetInPagemaps() || len(attached) == 0:
		return "not attached"
	case len(stored) > 0 && stored[len(stored)-1].End > length:
		return "more is stored of it than it is long"
	}
	for _, v := range attached {
		if v.GetPgoff() != 0 || v.GetEnd()-v.GetStart() != length {
			return "a part of it is attached"
		}
	}
	return ""
}

func (c *compiler) segment(r *recipe.Recipe, next recipe.Addr, s *ipc_shm.IpcShmEntry, attached []*vma.VmaEntry) {
	p, d := s.GetDesc(), r.Data()
	what := fmt.Sprintf("System V shared memory %d", p.GetId())
	runs, err := c.images.SharedPages(uint64(p.GetId()))
	if err != nil {
		c.refuse("%s: %v", what, err)
		return
	}
	if why := cannotAttach(s, attached, runs); why != "" {
		c.refuse("%s: %s", what, why)
		return
	}
	id := recipe.Int(p.GetId())
	text := fmt.Sprint(p.GetId())
	r.Call(what, recipe.Pwrite, recipe.Load(next), recipe.At(d.Bytes([]byte(text))), recipe.Int(len(text)), recipe.Int(0)).Want(len(text))
	r.Call(what, recipe.Shmget, recipe.Int(int32(p.GetKey())), recipe.Int(s.GetSize()), recipe.Int(p.GetMode()&shmAccess|ipcCreate|ipcExclusive)).Want(int(p.GetId()))
	perm := shmidDS{UID: p.GetUid(), GID: p.GetGid(), Mode: p.GetMode() & shmAccess}
	r.Call(what, recipe.Shmctl, id, recipe.Int(ipcSet), recipe.At(d.Put(perm)))
	first := attached[0].GetStart()
	r.Call(what, recipe.Shmat, id, recipe.Int(first), recipe.Int(shmRemap)).Want(int(first))
	for _, run := range runs {
		r.Call(what, recipe.Pread, recipe.Int(c.open(run.File)), recipe.Int(first+run.Start), recipe.Int(run.End-run.Start), recipe.Int(run.Offset)).
			Want(int(run.End - run.Start))
	}
	for _, v := range attached {
		how := uint32(shmRemap)
		if v.GetFdflags()&3 == oRdonly {
			how |= shmReadonly
		}
		if v.GetProt()&protExec != 0 {
			how |= shmExec
		}
		r.Call(what, recipe.Shmat, id, recipe.Int(v.GetStart()), recipe.Int(how)).Want(int(v.GetStart()))
		r.Call(what, recipe.Mprotect, recipe.Int(v.GetStart()), recipe.Int(v.GetEnd()-v.GetStart()), recipe.Int(v.GetProt()))
	}
	if p.GetMode()&shmDest != 0 {
		r.Call(what, recipe.Shmctl, id, recipe.Int(ipcRemove), recipe.Int(0))
	}
}

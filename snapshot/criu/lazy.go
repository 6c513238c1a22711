package criu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
)

// flagLazy marks pages that a restore with Lazy leaves to the pager. CRIU sets it in every dump.
const flagLazy = 1 << 1

// PageRun is a stretch of a process's memory that lies in one piece in a pages file.
type PageRun struct {
	Start, End uint64
	File       string // in the images directory
	Offset     int64
}

// LazyPages returns, by process id in its own pid namespace, the memory that a restore with Lazy leaves to the pager.
func (im *Images) LazyPages() (map[int][]PageRun, error) {
	out := make(map[int][]PageRun)
	for _, pid := range im.pids() {
		p, err := im.pagemap(pid)
		if err != nil {
			return nil, err
		}
		for _, r := range p.runs {
			if r.present() && r.flags&flagLazy != 0 {
				out[int(pid)] = append(out[int(pid)], PageRun{r.addr, r.end(), pagesName(p.pagesID), r.offset})
			}
		}
	}
	return out, nil
}

// rootCore returns the name of the core image of the root task.
func (im *Images) rootCore() string { return fmt.Sprintf("core-%d.img", im.tree[0].GetPid()) }

// DiesWithParent says whether the root task, once restored, gets SIGKILL when the thread that started CRIU ends.
func (im *Images) DiesWithParent() (bool, error) {
	core, err := im.core(im.tree[0].GetPid())
	if err != nil {
		return false, err
	}
	return core.GetThreadCore().GetPdeathSig() == uint32(syscall.SIGKILL), nil
}

// SetDiesWithParent rewrites the image of the root task so that DiesWithParent is true. A root task that has asked for
// another signal itself is left alone. The image is replaced atomically.
func (im *Images) SetDiesWithParent() error {
	path := filepath.Join(im.dir, im.rootCore())
	records, err := readImage(im.dir, im.rootCore(), magicCore)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return corrupt(path, "has no record")
	}
	var core criu_core.CoreEntry
	if err := decode(path, records[0], &core); err != nil {
		return err
	}
	if core.ThreadCore == nil {
		return corrupt(path, "has no thread")
	}
	if core.ThreadCore.GetPdeathSig() != 0 {
		return nil
	}
	core.ThreadCore.PdeathSig = new(uint32(syscall.SIGKILL))
	first, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&core)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = appendRecord(binary.LittleEndian.AppendUint32(b, magicCore), first)
	for _, r := range records[1:] {
		b = appendRecord(b, r)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// MountCache mounts the warm cache over the place where CRIU looks for it, for this whole process and its mount
// namespace, which must be private, and returns a tool that needs no mount namespace of its own for each run.
func (t Tool) MountCache() (Tool, error) {
	if t.Kerndat == "" {
		return t, nil
	}
	target := t.cache
	if target == "" {
		target = defaultCache
	}
	if err := bindFile(t.Kerndat, target); err != nil {
		return t, err
	}
	t.Kerndat = ""
	return t, nil
}

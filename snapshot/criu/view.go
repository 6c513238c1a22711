package criu

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// argsMax is how much of a process's arguments is read.
const argsMax = 128 << 10

// ProcessView is one process of a dump, with everything that can be said about it.
type ProcessView struct {
	snapshot.Process
	Args     []string
	Mappings []Mapping
	Files    []File
}

// File is one open descriptor.
type File struct {
	FD   int
	Kind string // "regular", "pipe", "tcp", "unix", "epoll", …
	Name string
}

// View returns all processes with their arguments, mappings and descriptors.
func (im *Images) View() ([]ProcessView, error) {
	processes, err := im.Processes()
	if err != nil {
		return nil, err
	}
	views := make([]ProcessView, len(processes))
	for i, p := range processes {
		v := ProcessView{Process: p}
		pid := uint32(p.Pid)
		space, err := im.mm(pid)
		if err != nil {
			return nil, err
		}
		if space != nil {
			pages, err := im.pagemap(pid)
			if err != nil {
				return nil, err
			}
			if v.Args, err = im.args(space, pages); err != nil {
				return nil, err
			}
			if v.Mappings, err = im.mappings(space, pages); err != nil {
				return nil, err
			}
		}
		if v.Files, err = im.descriptors(pid); err != nil {
			return nil, err
		}
		views[i] = v
	}
	return views, nil
}

func (im *Images) args(space *mm.MmEntry, pages *pagemap) ([]string, error) {
	start, end := space.GetMmArgStart(), space.GetMmArgEnd()
	if end <= start {
		return nil, nil
	}
	b, err := im.memory(pages, start, int(min(end-start, argsMax)))
	if err != nil {
		return nil, err
	}
	var args []string
	for arg := range strings.SplitSeq(string(bytes.TrimRight(b, "\x00")), "\x00") {
		args = append(args, arg)
	}
	return args, nil
}

func (im *Images) descriptors(pid uint32) ([]File, error) {
	ids := &criu_core.TaskKobjIdsEntry{}
	err := readOne(im.dir, fmt.Sprintf("ids-%d.img", pid), magicIDs, ids)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a zombie
	}
	if err != nil {
		return nil, err
	}
	open, err := readAll[fdinfo.FdinfoEntry](im.dir, fmt.Sprintf("fdinfo-%d.img", ids.GetFilesId()), magicFdinfo, true)
	if err != nil {
		return nil, err
	}
	files, err := im.files()
	if err != nil {
		return nil, err
	}
	out := make([]File, len(open))
	for i, d := range open {
		kind, name := describe(d.GetType(), files[d.GetId()], files)
		out[i] = File{FD: int(d.GetFd()), Kind: kind, Name: name}
	}
	return out, nil
}

// describe says what a descriptor is. f is nil where the images say nothing of it.
func describe(kind fdinfo.FdTypes, f *fdinfo.FileEntry, files map[uint32]*fdinfo.FileEntry) (string, string) {
	switch kind {
	case fdinfo.FdTypes_REG:
		return "regular", f.GetReg().GetName()
	case fdinfo.FdTypes_PIPE:
		return "pipe", fmt.Sprintf("pipe:[%d]", f.GetPipe().GetPipeId())
	case fdinfo.FdTypes_FIFO:
		return "fifo", f.GetReg().GetName()
	case fdinfo.FdTypes_INETSK:
		return protocol(f.GetIsk()), endpoints(f.GetIsk())
	case fdinfo.FdTypes_UNIXSK:
		name := strings.TrimRight(string(f.GetUsk().GetName()), "\x00")
		if strings.HasPrefix(name, "\x00") {
			name = "@" + name[1:]
		}
		return "unix", name
	case fdinfo.FdTypes_TTY:
		return "tty", files[f.GetTty().GetRegfId()].GetReg().GetName()
	case fdinfo.FdTypes_EXT:
		return "external", ""
	case fdinfo.FdTypes_NS:
		return "namespace", ""
	}
	plain := map[fdinfo.FdTypes]string{
		fdinfo.FdTypes_EVENTFD: "eventfd", fdinfo.FdTypes_EVENTPOLL: "epoll", fdinfo.FdTypes_INOTIFY: "inotify",
		fdinfo.FdTypes_SIGNALFD: "signalfd", fdinfo.FdTypes_PACKETSK: "packet", fdinfo.FdTypes_FANOTIFY: "fanotify",
		fdinfo.FdTypes_NETLINKSK: "netlink", fdinfo.FdTypes_TUNF: "tun", fdinfo.FdTypes_TIMERFD: "timerfd",
		fdinfo.FdTypes_MEMFD: "memfd", fdinfo.FdTypes_BPFMAP: "bpf", 20: "pidfd",
	}
	if name, ok := plain[kind]; ok {
		return name, ""
	}
	return "other", ""
}

func endpoints(s *sk_inet.InetSkEntry) string {
	point := func(words []uint32, port uint32) string {
		a, _ := address(s.GetFamily(), words)
		return netip.AddrPortFrom(a, uint16(port)).String()
	}
	here := point(s.GetSrcAddr(), s.GetSrcPort())
	switch {
	case s.GetProto() == protoTCP && s.GetState() == stateListen:
		return here + " (listening)"
	case s.GetDstPort() != 0:
		return here + " → " + point(s.GetDstAddr(), s.GetDstPort())
	}
	return here
}

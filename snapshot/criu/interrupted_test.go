package criu

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/core-x86"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-sa"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
)

const (
	codeStored = 0x401000 // where the images have code: a page of system calls, and one of other things
	codeFile   = 0x501000 // where they have none
)

// caughtIn makes the core image of a thread that the dump took out of a call.
func caughtIn(c *criu_core.CoreEntry, number, ip uint64) {
	r := c.ThreadInfo.Gpregs
	r.Ax, r.OrigAx, r.Ip = new(math.MaxUint64-uint64(syscall.EINTR)+1), new(number), new(ip)
}

func queue(signals ...syscall.Signal) *siginfo.SignalQueueEntry {
	q := &siginfo.SignalQueueEntry{}
	for _, s := range signals {
		info := binary.LittleEndian.AppendUint32(nil, uint32(s))
		q.Signals = append(q.Signals, &siginfo.SiginfoEntry{Siginfo: append(info, make([]byte, 124)...)})
	}
	return q
}

// actions are those of a process that handles SIGUSR1, ignores SIGUSR2, and leaves the others as they are.
func actions() []*criu_sa.SaEntry {
	var all []*criu_sa.SaEntry
	for n := syscall.Signal(1); n <= 64; n++ {
		handler := map[syscall.Signal]uint64{syscall.SIGUSR1: codeFile, syscall.SIGUSR2: 1}[n]
		if n != syscall.SIGKILL && n != syscall.SIGSTOP {
			all = append(all, &criu_sa.SaEntry{Sigaction: new(handler), Flags: new(uint64(0)), Restorer: new(uint64(0)), Mask: new(uint64(0))})
		}
	}
	return all
}

// interruptedImages are images of one process whose first thread sleeps, with a second thread as change makes it.
func interruptedImages(t *testing.T, change func(first, second *criu_core.CoreEntry)) (im *Images, tid uint32) {
	t.Helper()
	dir := t.TempDir()
	ok(t, os.CopyFS(dir, os.DirFS("testdata/images")))
	code := append(bytes.Repeat([]byte{0x0f, 0x05}, pageSize/2), make([]byte, pageSize)...)
	ok(t, os.WriteFile(filepath.Join(dir, pagesName(1)), code, 0o600))
	pages := &pagemap{pagesID: 1, runs: []run{{addr: codeStored, pages: 2, flags: flagPresent}}}
	ok(t, os.WriteFile(filepath.Join(dir, "pagemap-1.img"), pages.encode(), 0o600))
	ok(t, os.WriteFile(filepath.Join(dir, "pagemap-2.img"), (&pagemap{}).encode(), 0o600))
	im = mustOpen(t, dir)
	leader, tid := im.tree[0].GetThreads()[0], im.tree[0].GetThreads()[1]
	first, err := im.core(leader)
	ok(t, err)
	second, err := im.core(tid)
	ok(t, err)
	first.Tc.Sigactions, first.Tc.SignalsS, second.ThreadCore.SignalsP = actions(), nil, nil
	caughtIn(first, 35, codeFile)
	caughtIn(second, 35, codeFile)
	if change != nil {
		change(first, second)
	}
	for id, c := range map[uint32]*criu_core.CoreEntry{leader: first, tid: second} {
		ok(t, im.rewriteCore(id, func(core *criu_core.CoreEntry) (bool, error) {
			proto.Reset(core)
			proto.Merge(core, c)
			return true, nil
		}))
	}
	return im, tid
}

// TestRepeatCalls sends those threads back that only the dump took out of their calls, and touches nothing else.
func TestRepeatCalls(t *testing.T) {
	for name, c := range map[string]struct {
		change func(first, second *criu_core.CoreEntry)
		repeat bool
	}{
		"nanosleep":         {nil, true},
		"poll":              {func(_, c *criu_core.CoreEntry) { caughtIn(c, 7, codeFile) }, true},
		"futex":             {func(_, c *criu_core.CoreEntry) { caughtIn(c, 202, codeFile) }, true},
		"clock_nanosleep":   {func(_, c *criu_core.CoreEntry) { caughtIn(c, 230, codeFile) }, true},
		"stored code":       {func(_, c *criu_core.CoreEntry) { caughtIn(c, 35, codeStored+2) }, true},
		"no system call":    {func(_, c *criu_core.CoreEntry) { caughtIn(c, 35, codeStored+3) }, false},
		"overwritten":       {func(_, c *criu_core.CoreEntry) { caughtIn(c, 35, codeStored+pageSize+2) }, false},
		"no instruction":    {func(_, c *criu_core.CoreEntry) { caughtIn(c, 35, 1) }, false},
		"epoll_wait":        {func(_, c *criu_core.CoreEntry) { caughtIn(c, 232, codeFile) }, false},
		"after a handler":   {func(_, c *criu_core.CoreEntry) { caughtIn(c, math.MaxUint64, codeFile) }, false},
		"returned 0":        {func(_, c *criu_core.CoreEntry) { c.ThreadInfo.Gpregs.Ax = new(uint64(0)) }, false},
		"32 bits":           {func(_, c *criu_core.CoreEntry) { c.ThreadInfo.Gpregs.Mode = core_x86.UserX86RegsMode_COMPAT.Enum() }, false},
		"other machine":     {func(_, c *criu_core.CoreEntry) { c.Mtype = criu_core.CoreEntry_AARCH64.Enum() }, false},
		"signal":            {func(_, c *criu_core.CoreEntry) { c.ThreadCore.SignalsP = queue(syscall.SIGUSR1) }, false},
		"signal of process": {func(first, _ *criu_core.CoreEntry) { first.Tc.SignalsS = queue(syscall.SIGUSR2, syscall.SIGUSR1) }, false},
		"ignored signals":   {func(first, _ *criu_core.CoreEntry) { first.Tc.SignalsS = queue(syscall.SIGUSR2, syscall.SIGCHLD) }, true},
		"blocked signal": {func(_, c *criu_core.CoreEntry) {
			c.ThreadCore.SignalsP = queue(syscall.SIGUSR1)
			c.ThreadCore.BlkSigset = new(uint64(1) << (syscall.SIGUSR1 - 1))
		}, true},
		"unknown actions": {func(first, _ *criu_core.CoreEntry) {
			first.Tc.Sigactions, first.Tc.SignalsS = nil, queue(syscall.SIGUSR2)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			im, tid := interruptedImages(t, c.change)
			want, err := im.core(tid)
			ok(t, err)
			if r := want.ThreadInfo.Gpregs; c.repeat {
				r.Ax, r.Ip = new(r.GetOrigAx()), new(r.GetIp()-2)
			}
			ok(t, im.RepeatCalls())
			once, err := im.core(tid)
			ok(t, err)
			if !proto.Equal(want, once) {
				t.Errorf("the registers are %v, want %v, and nothing else may differ", once.ThreadInfo.Gpregs, want.ThreadInfo.Gpregs)
			}
			ok(t, im.RepeatCalls())
			if twice, err := im.core(tid); err != nil || !proto.Equal(once, twice) {
				t.Errorf("a second time changes the image (%v)", err)
			}
			if left, _ := filepath.Glob(filepath.Join(im.dir, "*.new")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestRepeatCallsFirstThread sends the first thread back as well, and reports an image that is gone.
func TestRepeatCallsFirstThread(t *testing.T) {
	im, tid := interruptedImages(t, nil)
	ok(t, im.RepeatCalls())
	core, err := im.core(im.tree[0].GetPid())
	ok(t, err)
	if r := core.ThreadInfo.Gpregs; r.GetAx() != 35 || r.GetIp() != codeFile-2 {
		t.Errorf("call %d at %#x", r.GetAx(), r.GetIp())
	}
	ok(t, os.Remove(filepath.Join(im.dir, coreName(tid))))
	if err := im.RepeatCalls(); err == nil {
		t.Error("the image of a thread is gone, and nobody minds")
	}
}

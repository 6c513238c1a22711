package criu

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/core-x86"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-sa"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
)

// syscallLength is the length of the instruction by which a 64-bit task calls the kernel.
const syscallLength = 2

// plugins returns the environment by which CRIU finds the plugin that does for tasks which run on after a dump what
// RepeatCalls does in the images.
func (t Tool) plugins(root int) []string {
	if t.Plugins == "" {
		return nil
	}
	return []string{"CRIU_LIBS_DIR=" + t.Plugins, fmt.Sprintf("SNAPD_CTR_TREE=%d", root)}
}

// RepeatCalls rewrites the images so that every thread which the dump took out of a call with a timeout makes that call
// again, with its whole timeout, as its first act. Of a task that is merely stopped the kernel continues such a call
// where it was, from notes of its own that no image can hold; CRIU has it fail with EINTR instead, which programs that
// handle no signal do not expect. Images of other architectures than amd64, and 32-bit tasks, are left alone. Images are
// replaced atomically, one after the other; a second time changes nothing.
func (im *Images) RepeatCalls() error {
	for _, e := range im.tree {
		first, err := im.core(e.GetPid())
		if err != nil {
			return err
		}
		pages, err := im.pagemap(e.GetPid())
		if err != nil {
			return err
		}
		tids, err := im.threads(e)
		if err != nil {
			return err
		}
		for _, tid := range tids {
			core, err := im.core(tid)
			if err != nil {
				return err
			}
			if !interrupted(core, first) {
				continue
			}
			can, err := im.afterSyscall(pages, core.GetThreadInfo().GetGpregs().GetIp())
			if err != nil {
				return err
			}
			if !can {
				continue
			}
			if err := im.rewriteCore(tid, repeatCall); err != nil {
				return err
			}
		}
	}
	return nil
}

// interrupted says whether a thread of the process that first belongs to has registers of a call that only the dump ended.
//
// Could the call have failed with EINTR by itself? The kernel puts the number of a call aside (orig_ax) for as long as the
// task is in it, and these calls end with EINTR in one way only: a signal has a handler to run. The handler returns by
// rt_sigreturn, and a task that comes out of that, or that was stopped between two instructions, has a negative number
// there. So a task with this number has not run a single instruction since. There remains a signal that came together with
// the dump: it is pending, its handler runs first in a clone as well, and then the call must say EINTR, for which the
// program may be waiting.
func interrupted(core, first *criu_core.CoreEntry) bool {
	r := core.GetThreadInfo().GetGpregs()
	if core.GetMtype() != criu_core.CoreEntry_X86_64 || r == nil || r.GetMode() != core_x86.UserX86RegsMode_NATIVE {
		return false
	}
	if int64(r.GetAx()) != -int64(syscall.EINTR) || !continued(r.GetOrigAx()) {
		return false
	}
	blocked := core.GetThreadCore().GetBlkSigset()
	if core.GetTc() != nil {
		blocked = core.GetTc().GetBlkSigset() // where CRIU has it of a first thread
	}
	for _, q := range []*siginfo.SignalQueueEntry{core.GetThreadCore().GetSignalsP(), first.GetTc().GetSignalsS()} {
		for _, s := range q.GetSignals() {
			if number := signalNumber(s); blocked>>(number-1)&1 == 0 && handled(first.GetTc().GetSigactions(), number) {
				return false
			}
		}
	}
	return true
}

func signalNumber(s *siginfo.SiginfoEntry) uint32 {
	var first [4]byte
	copy(first[:], s.GetSiginfo())
	return binary.LittleEndian.Uint32(first[:])
}

// handled says whether the process has a handler for a signal. The actions of a process are in order of the signals, less
// those two that can have none; a process whose actions are not known may have one.
func handled(actions []*criu_sa.SaEntry, number uint32) bool {
	i := int(number) - 1
	for _, never := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		switch {
		case number == uint32(never):
			return false
		case number > uint32(never):
			i--
		}
	}
	const ignored = 1 // and 0 is the default action
	return i < 0 || i >= len(actions) || actions[i].GetSigaction() > ignored
}

// continued says whether an amd64 system call is one of those that the kernel continues by restart_syscall. Every other
// call that a stop ends is repeated by CRIU itself, or does fail with EINTR when its task is merely stopped.
func continued(number uint64) bool {
	const (
		poll           = 7
		nanosleep      = 35
		futex          = 202
		clockNanosleep = 230
	)
	switch number {
	case poll, nanosleep, futex, clockNanosleep:
		return true
	}
	return false
}

// afterSyscall says whether the instruction before ip is a system call. Code is rarely in the images: it lies in files,
// and then that ip is where the task came out of one has to do.
func (im *Images) afterSyscall(pages *pagemap, ip uint64) (bool, error) {
	if ip < syscallLength {
		return false, nil
	}
	if present(pages.runs, ip-syscallLength, ip) < syscallLength {
		return true, nil
	}
	code, err := im.memory(pages, ip-syscallLength, syscallLength)
	return string(code) == "\x0f\x05", err
}

// repeatCall takes a thread back to before the instruction that made its call. The kernel has left the arguments in the
// registers.
func repeatCall(core *criu_core.CoreEntry) (bool, error) {
	r := core.GetThreadInfo().GetGpregs()
	r.Ax = new(r.GetOrigAx())
	r.Ip = new(r.GetIp() - syscallLength)
	return true, nil
}

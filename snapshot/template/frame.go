package template

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/core-x86"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
)

// A thread becomes the captured one by rt_sigreturn from a signal frame with its registers, its signal mask and its
// alternate stack. Layouts are those of the kernel's arch/x86/include/uapi/asm/sigcontext.h and ucontext.h.
const (
	frameHead   = 512 // before the state of the floating point unit, which must lie at a multiple of 64
	fxsaveSize  = 512
	xsaveHeader = 64

	ucFPXstate        = 1 << 0
	ucSigcontextSS    = 1 << 1
	ucStrictRestoreSS = 1 << 2

	xstateMagic1  = 0x46505853
	xstateMagic2  = 0x46505845
	softwareBytes = 464 // where in the FXSAVE area the kernel looks for what follows it

	ssDisable = 2
)

// Components of the extended state, by their bits in XCR0.
const (
	stateX87 = iota
	stateSSE
	stateAVX
	stateBndRegs
	stateBndCSR
	stateOpmask
	stateZMMHigh
	stateHigh16ZMM
	_ // processor trace
	statePKRU
)

// xsaveLayout says where this processor has each component of the extended state.
type xsaveLayout struct {
	features uint64
	offset   [32]uint32
	size     [32]uint32
}

func (h hello) layout() xsaveLayout { return xsaveLayout{h.XCR0, h.Offset, h.Size} }

// end returns how long a state with the features is.
func (l xsaveLayout) end(features uint64) int {
	end := fxsaveSize + xsaveHeader
	for i := 2; i < 32; i++ {
		if features>>i&1 == 1 {
			end = max(end, int(l.offset[i]+l.size[i]))
		}
	}
	return end
}

// stride returns how much room every thread's frame gets.
func (l xsaveLayout) stride() int {
	const known = 1<<stateAVX | 1<<stateBndRegs | 1<<stateBndCSR | 1<<stateOpmask | 1<<stateZMMHigh | 1<<stateHigh16ZMM | 1<<statePKRU
	return (frameHead + l.end(l.features&known) + 4 + 63) &^ 63
}

// sigframe returns the frame of a thread for the address at which it will lie.
func sigframe(core *criu_core.CoreEntry, l xsaveLayout, at uint64) ([]byte, error) {
	info, thread := core.GetThreadInfo(), core.GetThreadCore()
	if info.GetGpregs() == nil || info.GetFpregs() == nil || thread == nil {
		return nil, errors.New("the image has no registers")
	}
	b := make([]byte, l.stride())
	le := binary.LittleEndian
	fp, err := floatingPoint(info.GetFpregs(), l)
	if err != nil {
		return nil, err
	}
	copy(b[frameHead:], fp)
	uc := b[8:] // after the return address, which nobody uses
	flags := uint64(ucSigcontextSS | ucStrictRestoreSS)
	if len(fp) > fxsaveSize {
		flags |= ucFPXstate
	}
	le.PutUint64(uc, flags)
	le.PutUint32(uc[24:], ssDisable)
	if s := thread.GetSas(); s != nil {
		le.PutUint64(uc[16:], s.GetSsSp())
		le.PutUint32(uc[24:], s.GetSsFlags()&^1) // not SS_ONSTACK, which follows from the stack pointer
		le.PutUint64(uc[32:], s.GetSsSize())
	}
	r := info.GetGpregs()
	for i, v := range []uint64{r.GetR8(), r.GetR9(), r.GetR10(), r.GetR11(), r.GetR12(), r.GetR13(), r.GetR14(), r.GetR15(),
		r.GetDi(), r.GetSi(), r.GetBp(), r.GetBx(), r.GetDx(), r.GetAx(), r.GetCx(), r.GetSp(), r.GetIp(), r.GetFlags()} {
		le.PutUint64(uc[40+8*i:], v)
	}
	for i, v := range []uint64{r.GetCs(), r.GetGs(), r.GetFs(), r.GetSs()} {
		le.PutUint16(uc[40+8*18+2*i:], uint16(v))
	}
	le.PutUint64(uc[40+8*23:], at+frameHead)
	mask := thread.GetBlkSigset()
	if core.GetTc() != nil {
		mask = core.GetTc().GetBlkSigset() // where CRIU has it of a first thread
	}
	le.PutUint64(uc[40+256:], mask)
	return b, nil
}

// floatingPoint returns the state of the floating point unit in the standard format of XSAVE, with the kernel's own marks.
func floatingPoint(f *core_x86.UserX86FpregsEntry, l xsaveLayout) ([]byte, error) {
	if len(f.GetStSpace()) != 32 || len(f.GetXmmSpace()) != 64 {
		return nil, errors.New("the image has an incomplete state of the floating point unit")
	}
	parts := components(f.GetXsave())
	features := uint64(1<<stateX87 | 1<<stateSSE)
	for i := range parts {
		if l.features>>i&1 == 0 || l.size[i] < uint32(len(parts[i])) {
			return nil, fmt.Errorf("this processor has no component %d of the extended state", i)
		}
		features |= 1 << i
	}
	b := make([]byte, fxsaveSize, l.end(features)+4)
	le := binary.LittleEndian
	for i, v := range []uint32{f.GetCwd(), f.GetSwd(), f.GetTwd(), f.GetFop()} {
		le.PutUint16(b[2*i:], uint16(v))
	}
	le.PutUint64(b[8:], f.GetRip())
	le.PutUint64(b[16:], f.GetRdp())
	le.PutUint32(b[24:], f.GetMxcsr())
	le.PutUint32(b[28:], f.GetMxcsrMask())
	words(b[32:], f.GetStSpace())
	words(b[160:], f.GetXmmSpace())
	if l.features == 0 {
		return b, nil
	}
	size := l.end(features)
	b = b[:size+4]
	le.PutUint64(b[fxsaveSize:], f.GetXsave().GetXstateBv()&features)
	for i, part := range parts {
		copy(b[l.offset[i]:], part)
	}
	le.PutUint32(b[softwareBytes:], xstateMagic1)
	le.PutUint32(b[softwareBytes+4:], uint32(size)+4)
	le.PutUint64(b[softwareBytes+8:], features)
	le.PutUint32(b[softwareBytes+16:], uint32(size))
	le.PutUint32(b[size:], xstateMagic2)
	return b, nil
}

// components returns the parts of the extended state that an image has, by number.
func components(x *core_x86.UserX86XsaveEntry) map[int][]byte {
	parts := make(map[int][]byte)
	narrow := func(i int, v []uint32) {
		if len(v) > 0 {
			parts[i] = make([]byte, 4*len(v))
			words(parts[i], v)
		}
	}
	wide := func(i int, v []uint64) {
		for _, w := range v {
			parts[i] = binary.LittleEndian.AppendUint64(parts[i], w)
		}
	}
	narrow(stateAVX, x.GetYmmhSpace())
	wide(stateBndRegs, x.GetBndregState())
	wide(stateBndCSR, x.GetBndcsrState())
	wide(stateOpmask, x.GetOpmaskReg())
	wide(stateZMMHigh, x.GetZmmUpper())
	wide(stateHigh16ZMM, x.GetHi16Zmm())
	narrow(statePKRU, x.GetPkru())
	return parts
}

func words(b []byte, v []uint32) {
	for i, w := range v {
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
}

package template

import (
	"encoding/binary"
	"slices"
)

// shrink returns a seccomp filter that says the same of every call, in fewer instructions where that is possible. A kernel
// checks, translates and tries a filter when it is installed, which each clone must pay for: 0.3 ms for one of the size that
// libseccomp makes of the usual profile, a fifth of that for what is left of it.
//
// What such filters do first is to tell architectures and calls apart, by comparing one with hundreds of numbers. That
// they do the same for all numbers between two that they compare with is all that is used here: each of these ranges
// is tried, those that come to the same are joined, and a balanced tree leads to what they come to. A filter that does anything
// else with the number of a call is left as it is.
func shrink(filter []byte) []byte {
	const most = 4096 // instructions that the kernel takes: BPF_MAXINSNS
	if len(filter) > most*filterSize {
		return filter
	}
	f := &shrinking{decisions: make(map[decision]*decision)}
	for i := 0; i+filterSize <= len(filter); i += filterSize {
		f.program = append(f.program, instruction{binary.LittleEndian.Uint16(filter[i:]), filter[i+2], filter[i+3], binary.LittleEndian.Uint32(filter[i+4:])})
	}
	bounds, ok := f.bounds()
	if !ok {
		return filter
	}
	root, ok := f.byArch(bounds)
	if !ok || root == byCall {
		return filter
	}
	a := &assembler{at: make(map[*decision]int)}
	a.emit(root)
	if len(a.reversed) >= len(f.program) {
		return filter
	}
	var out []byte
	for _, in := range slices.Backward(a.reversed) {
		out = binary.LittleEndian.AppendUint16(out, in.code)
		out = binary.LittleEndian.AppendUint32(append(out, in.yes, in.no), in.k)
	}
	return out
}

// instruction is the kernel's struct sock_filter.
type instruction struct {
	code    uint16
	yes, no uint8
	k       uint32
}

// The instructions that shrink knows: all that libseccomp writes.
const (
	loadWord     = 0x20
	returnNumber = 0x06
	jumpAlways   = 0x05
	jumpEqual    = 0x15
	jumpGreater  = 0x25
	jumpAtLeast  = 0x35
	jumpSet      = 0x45
	andNumber    = 0x54
)

// Where struct seccomp_data has the call and the architecture.
const (
	wordNr, wordArch = 0, 4
)

type shrinking struct {
	program   []instruction
	steps     int                    // taken
	callAt    int                    // of a decision by call: where the call is first looked at
	decisions map[decision]*decision // there is one of each
}

// decision is what a filter comes to: a verdict, or a question that leads to two other decisions.
type decision struct {
	verdict uint32
	ask     bool
	test    test
	yes, no *decision
}

// byCall stands for a decision that depends on the call.
var byCall = new(decision)

// test compares a word of what a filter looks at, of which it takes the bits in mask.
type test struct {
	word, mask uint32
	op         uint16
	k          uint32
}

// bounds returns numbers between any two neighbours of which the filter can make no difference: the first of each range.
func (f *shrinking) bounds() (list []uint32, ok bool) {
	list = []uint32{0}
	for _, in := range f.program {
		switch in.code {
		case jumpEqual, jumpGreater:
			list = append(list, in.k, in.k+1) // past the last one is the first
		case jumpAtLeast:
			list = append(list, in.k)
		case jumpSet: // of a call: the mark of the x32 interface, and few bits else
			const few = 1 << 26
			low := in.k & -in.k
			if low < few {
				low = 0 // it must be about an argument then, or nothing comes of it: see know
			}
			for at := low; at != 0; at += low {
				list = append(list, at)
			}
		case loadWord, returnNumber, jumpAlways, andNumber:
		default:
			return nil, false
		}
	}
	slices.Sort(list)
	return slices.Compact(list), len(list) < 1<<14
}

// byArch returns the decision: by architecture, and then by call.
func (f *shrinking) byArch(bounds []uint32) (*decision, bool) {
	var ranges []span
	tables := make(map[int]*decision) // by where the call is first looked at
	for i, arch := range bounds {
		known := map[uint32]uint32{wordArch: arch}
		o, ok := f.follow(known)
		if !ok {
			return nil, false
		}
		if o == byCall {
			at := f.callAt
			if at == 0 || f.looksAtArch(at) {
				at = -1 - i // this architecture's alone
			}
			if tables[at] == nil {
				if tables[at], ok = f.byNumber(known, bounds); !ok {
					return nil, false
				}
			}
			o = tables[at]
		}
		ranges = join(ranges, span{arch, o})
	}
	return f.tree(wordArch, ranges), true
}

// byNumber returns the decision by call for one architecture.
func (f *shrinking) byNumber(known map[uint32]uint32, bounds []uint32) (*decision, bool) {
	var calls []span
	for _, nr := range bounds {
		known[wordNr] = nr
		o, ok := f.follow(known)
		if !ok {
			return nil, false
		}
		calls = join(calls, span{nr, o})
	}
	return f.tree(wordNr, calls), true
}

// looksAtArch says whether the architecture is looked at from an instruction on.
func (f *shrinking) looksAtArch(from int) bool {
	return slices.ContainsFunc(f.program[from:], func(in instruction) bool { return in.code == loadWord && in.k == wordArch })
}

// span is a range of numbers, by its first, and what the filter comes to for them.
type span struct {
	from uint32
	o    *decision
}

func join(list []span, next span) []span {
	if n := len(list); n > 0 && list[n-1].o == next.o {
		return list
	}
	return append(list, next)
}

// tree returns a balanced tree of comparisons that leads to the decision for the range which a word is in.
func (f *shrinking) tree(word uint32, ranges []span) *decision {
	if len(ranges) == 1 {
		return ranges[0].o
	}
	mid := len(ranges) / 2
	return f.question(test{word, ^uint32(0), jumpAtLeast, ranges[mid].from}, f.tree(word, ranges[mid:]), f.tree(word, ranges[:mid]))
}

func (f *shrinking) question(t test, yes, no *decision) *decision {
	if yes == no {
		return yes
	}
	return f.one(decision{ask: true, test: t, yes: yes, no: no})
}

func (f *shrinking) one(o decision) *decision {
	if f.decisions[o] == nil {
		f.decisions[o] = &o
	}
	return f.decisions[o]
}

// follow returns what the filter comes to where some words are known.
func (f *shrinking) follow(known map[uint32]uint32) (*decision, bool) {
	return f.from(0, test{word: wordNr}, known)
}

// from goes on at an instruction, with what the accumulator holds: of a the word and the mask. It begins as 0.
func (f *shrinking) from(pc int, a test, known map[uint32]uint32) (*decision, bool) {
	const most = 1 << 22 // of all steps: some 10 ms
	for ; pc < len(f.program); pc++ {
		if f.steps++; f.steps > most {
			return nil, false
		}
		in := f.program[pc]
		switch in.code {
		case loadWord:
			a = test{word: in.k, mask: ^uint32(0)}
		case andNumber:
			a.mask &= in.k
		case returnNumber:
			return f.one(decision{verdict: in.k}), true
		case jumpAlways:
			pc += int(in.k)
		default:
			a.op, a.k = in.code, in.k
			yes, decided, ok := a.know(known)
			switch {
			case !ok:
				return nil, false
			case !decided && a.word == wordNr:
				f.callAt = pc
				return byCall, true
			case decided && yes:
				pc += int(in.yes)
			case decided:
				pc += int(in.no)
			default:
				ifYes, ok1 := f.from(pc+1+int(in.yes), a, known)
				ifNo, ok2 := f.from(pc+1+int(in.no), a, known)
				if !ok1 || !ok2 {
					return nil, false
				}
				if ifYes == byCall || ifNo == byCall {
					f.callAt = 0 // in more places than one
					return byCall, true
				}
				return f.question(a, ifYes, ifNo), true
			}
		}
	}
	return nil, false
}

// know answers a test where the word is known. It is not ok with a part of a call's number, which ranges do not tell apart.
func (t test) know(known map[uint32]uint32) (yes, decided, ok bool) {
	v, decided := known[t.word]
	decided = decided || t.mask == 0
	part := t.mask != ^uint32(0) || t.op == jumpSet && t.k&-t.k < 1<<26
	if (t.word == wordNr || t.word == wordArch) && t.mask != 0 && part {
		return false, false, false
	}
	v &= t.mask
	switch t.op {
	case jumpEqual:
		yes = v == t.k
	case jumpGreater:
		yes = v > t.k
	case jumpAtLeast:
		yes = v >= t.k
	case jumpSet:
		yes = v&t.k != 0
	}
	return yes, decided, true
}

// assembler writes a program from its end: jumps lead forward, so where they lead to is written already.
type assembler struct {
	reversed []instruction
	at       map[*decision]int // how much of the program there was with it
}

func (a *assembler) put(in instruction) int {
	a.reversed = append(a.reversed, in)
	return len(a.reversed)
}

// emit writes what leads to a decision and returns where that begins. Each question loads the word it is about, but for
// those that follow one about the same.
func (a *assembler) emit(o *decision) int {
	if at, ok := a.at[o]; ok {
		return at
	}
	if !o.ask {
		a.at[o] = a.put(instruction{code: returnNumber, k: o.verdict})
		return a.at[o]
	}
	a.branch(o)
	if o.test.mask != ^uint32(0) {
		a.put(instruction{code: andNumber, k: o.test.mask})
	}
	a.at[o] = a.put(instruction{code: loadWord, k: o.test.word})
	return a.at[o]
}

// branch writes the comparison of a question, the word of which is loaded, and returns where that begins.
func (a *assembler) branch(o *decision) int {
	next := func(to *decision) int {
		if to.ask && to.test.word == o.test.word && to.test.mask == o.test.mask {
			return a.branch(to)
		}
		return a.emit(to)
	}
	yes, no := next(o.yes), next(o.no)
	// A comparison leads no further than 255 instructions: what is farther away is led to by a jump, or said again.
	if far := len(a.reversed) - yes; far > 253 {
		yes = a.near(o.yes, yes)
	}
	if far := len(a.reversed) - no; far > 254 {
		no = a.near(o.no, no)
	}
	n := len(a.reversed)
	return a.put(instruction{o.test.op, uint8(n - yes), uint8(n - no), o.test.k})
}

func (a *assembler) near(o *decision, at int) int {
	if !o.ask {
		a.at[o] = a.put(instruction{code: returnNumber, k: o.verdict})
		return a.at[o]
	}
	return a.put(instruction{code: jumpAlways, k: uint32(len(a.reversed) - at)})
}

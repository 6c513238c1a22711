package template

import (
	"encoding/binary"
	"errors"
)

// Instructions of classic BPF, as in the kernel's uapi/linux/bpf_common.h and filter.h.
const (
	bpfLD, bpfLDX, bpfST, bpfSTX, bpfALU, bpfJMP, bpfRET, bpfMISC = 0, 1, 2, 3, 4, 5, 6, 7

	bpfIMM, bpfABS, bpfMEM, bpfLEN = 0, 0x20, 0x60, 0x80
	bpfX                           = 8
)

// seccompData is the kernel's struct seccomp_data: what a filter looks at.
type seccompData struct {
	Nr, Arch           uint32
	InstructionPointer uint64
	Args               [6]uint64
}

var errFilter = errors.New("it is no filter that the kernel takes")

// judge runs a seccomp filter for one call and returns what it says: an action, and data in the lower half.
func judge(filter []byte, call seccompData) (uint32, error) {
	data := pack(call)
	var a, x uint32
	var mem [16]uint32
	for pc := 0; pc >= 0 && (pc+1)*filterSize <= len(filter); pc++ { // jumps lead forward only
		in := filter[pc*filterSize:]
		code, k := uint32(binary.LittleEndian.Uint16(in)), binary.LittleEndian.Uint32(in[4:])
		var v uint32
		switch code & 7 {
		case bpfLD, bpfLDX:
			switch code & 0xe0 {
			case bpfIMM:
				v = k
			case bpfABS:
				if uint64(k)+4 > uint64(len(data)) {
					return 0, errFilter
				}
				v = binary.LittleEndian.Uint32(data[k:])
			case bpfMEM:
				v = mem[k%16]
			case bpfLEN:
				v = uint32(len(data))
			default:
				return 0, errFilter
			}
			if code&7 == bpfLD {
				a = v
			} else {
				x = v
			}
		case bpfST:
			mem[k%16] = a
		case bpfSTX:
			mem[k%16] = x
		case bpfALU:
			operand := k
			if code&bpfX != 0 {
				operand = x
			}
			var err error
			if a, err = calculate(code&0xf0, a, operand); err != nil {
				return 0, err
			}
		case bpfJMP:
			operand := k
			if code&bpfX != 0 {
				operand = x
			}
			pc += jump(code&0xf0, a, operand, k, in)
		case bpfRET:
			if code&0x18 == 0x10 {
				return a, nil
			}
			return k, nil
		case bpfMISC:
			if code&0x80 != 0 {
				a = x
			} else {
				x = a
			}
		}
	}
	return 0, errFilter
}

func calculate(op, a, b uint32) (uint32, error) {
	switch op {
	case 0x00:
		return a + b, nil
	case 0x10:
		return a - b, nil
	case 0x20:
		return a * b, nil
	case 0x30:
		if b == 0 {
			return 0, errFilter
		}
		return a / b, nil
	case 0x40:
		return a | b, nil
	case 0x50:
		return a & b, nil
	case 0x60:
		return a << (b & 31), nil
	case 0x70:
		return a >> (b & 31), nil
	case 0x80:
		return -a, nil
	case 0xa0:
		return a ^ b, nil
	}
	return 0, errFilter
}

// jump returns how many instructions are left out.
func jump(op, a, b, k uint32, in []byte) int {
	var yes bool
	switch op {
	case 0x00:
		return int(min(k, 1<<16))
	case 0x10:
		yes = a == b
	case 0x20:
		yes = a > b
	case 0x30:
		yes = a >= b
	case 0x40:
		yes = a&b != 0
	}
	if yes {
		return int(in[2])
	}
	return int(in[3])
}

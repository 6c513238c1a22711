package template

import (
	"encoding/binary"
	"testing"
)

// assembled is a filter: code, jt, jf, k of each instruction.
func assembled(code ...[4]uint32) (b []byte) {
	for _, c := range code {
		b = binary.LittleEndian.AppendUint16(b, uint16(c[0]))
		b = append(b, byte(c[1]), byte(c[2]))
		b = binary.LittleEndian.AppendUint32(b, c[3])
	}
	return b
}

func TestJudge(t *testing.T) {
	const allow, kill = seccompAllow, 0x80000000
	load := func(at uint32) [4]uint32 { return [4]uint32{0x20, 0, 0, at} }
	ret := func(v uint32) [4]uint32 { return [4]uint32{0x06, 0, 0, v} }
	call := seccompData{Nr: 11, Arch: auditArch, InstructionPointer: 0x1122334455667788, Args: [6]uint64{1, 2, 0x300000004}}
	for _, c := range []struct {
		name    string
		program []byte
		want    uint32
	}{
		{"allow", assembled(ret(allow)), allow},
		{"this call", assembled(load(0), [4]uint32{0x15, 0, 1, 11}, ret(kill), ret(allow)), kill},
		{"another call", assembled(load(0), [4]uint32{0x15, 0, 1, 12}, ret(kill), ret(allow)), allow},
		{"architecture", assembled(load(4), [4]uint32{0x15, 1, 0, auditArch}, ret(kill), ret(allow)), allow},
		{"instruction pointer", assembled(load(8), [4]uint32{0x16, 0, 0, 0}), 0x55667788},
		{"upper half of an argument", assembled(load(16+2*8+4), [4]uint32{0x16, 0, 0, 0}), 3},
		{"greater", assembled(load(16+8), [4]uint32{0x25, 0, 1, 1}, ret(kill), ret(allow)), kill},
		{"not greater", assembled(load(16+8), [4]uint32{0x25, 0, 1, 2}, ret(kill), ret(allow)), allow},
		{"at least", assembled(load(16+8), [4]uint32{0x35, 0, 1, 2}, ret(kill), ret(allow)), kill},
		{"bits", assembled(load(16+8), [4]uint32{0x45, 0, 1, 3}, ret(kill), ret(allow)), kill},
		{"always", assembled([4]uint32{0x05, 0, 0, 1}, ret(kill), ret(allow)), allow},
		{"memory and X", assembled(load(0), [4]uint32{0x02, 0, 0, 3}, [4]uint32{0x07, 0, 0, 0}, [4]uint32{0x60, 0, 0, 3}, [4]uint32{0x0c, 0, 0, 0}, [4]uint32{0x16, 0, 0, 0}), 22},
		{"calculation", assembled(load(0), [4]uint32{0x54, 0, 0, 3}, [4]uint32{0x64, 0, 0, 4}, [4]uint32{0x14, 0, 0, 1}, [4]uint32{0x16, 0, 0, 0}), 47},
		{"length", assembled([4]uint32{0x80, 0, 0, 0}, [4]uint32{0x16, 0, 0, 0}), 64},
	} {
		if got, err := judge(c.program, call); err != nil || got != c.want {
			t.Errorf("%s: %#x, %v; want %#x", c.name, got, err, c.want)
		}
	}
	for name, p := range map[string][]byte{"no end": assembled(load(0)), "nothing": nil, "beyond": assembled(load(64), ret(allow)), "half": assembled(ret(allow))[:5]} {
		if got, err := judge(p, call); err == nil {
			t.Errorf("%s: %#x", name, got)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add(assembled([4]uint32{0x20, 0, 0, 0}, [4]uint32{0x15, 0, 1, 11}, [4]uint32{0x06, 0, 0, 0}))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = judge(b, seccompData{Nr: 1}) // it ends, and does not panic
	})
}

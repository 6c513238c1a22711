package template

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// usualFilter is what libseccomp makes of the profile that Docker and runc use, for x86-64, x86 and x32.
func usualFilter(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/usual.bpf")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// numbers are all that a filter compares something with, and what is beside them.
func numbers(filter []byte) []uint32 {
	list := []uint32{0, 1<<32 - 1}
	for i := 0; i < len(filter); i += filterSize {
		k := binary.LittleEndian.Uint32(filter[i+4:])
		list = append(list, k-1, k, k+1)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// sameVerdict fails the test where a filter and what it was shrunk to say different things of a call.
func sameVerdict(t interface{ Fatalf(string, ...any) }, filter, shrunk []byte, call seccompData) {
	want, err := judge(filter, call)
	got, err2 := judge(shrunk, call)
	if got != want || (err == nil) != (err2 == nil) {
		t.Fatalf("%+v: %#x, %v; the filter itself says %#x, %v", call, got, err2, want, err)
	}
}

// TestShrink compares a real filter with what is left of it: for every call that there may be on each architecture, and for
// arguments that it looks at.
func TestShrink(t *testing.T) {
	filter := usualFilter(t)
	shrunk := shrink(filter)
	if was, is := len(filter)/filterSize, len(shrunk)/filterSize; is > was/2 {
		t.Errorf("%d instructions of %d are left", is, was)
	} else {
		t.Logf("%d instructions of %d are left", is, was)
	}
	all := numbers(filter)
	for _, arch := range all {
		sameVerdict(t, filter, shrunk, seccompData{Arch: arch, Nr: 1})
	}
	const x86, x86x64, arm64 = 0x40000003, auditArch, 0xc00000b7
	arguments := [][6]uint64{{}, {0x7e020000, 1 << 35}, {16, 40}, {40}, {8}, {0x20008}, {0xffffffff}, {1 << 32}, {0x10000000}, {9, 9, 9}}
	for _, arch := range []uint32{x86, x86x64, arm64} {
		for _, nr := range all {
			for _, args := range arguments {
				sameVerdict(t, filter, shrunk, seccompData{Arch: arch, Nr: nr, Args: args})
			}
		}
		for nr := range uint32(2000) {
			sameVerdict(t, filter, shrunk, seccompData{Arch: arch, Nr: nr})
			sameVerdict(t, filter, shrunk, seccompData{Arch: arch, Nr: nr | 1<<30})
		}
	}
	for range 100000 {
		sameVerdict(t, filter, shrunk, seccompData{Arch: x86x64, Nr: rand.Uint32N(1000), InstructionPointer: rand.Uint64(), //nolint:gosec // any will do
			Args: [6]uint64{rand.Uint64() >> rand.UintN(64), rand.Uint64() >> rand.UintN(64)}}) //nolint:gosec // likewise
	}
}

// TestShrinkAny has filters of all sorts, most of which make no sense.
func TestShrinkAny(t *testing.T) {
	smaller := 0
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.SampledFrom([]uint32{0, 1, 2, 3, 4, 5, 7, 200, auditArch, 0x40000003, 1 << 30, 1<<30 + 5, 1<<32 - 1})
		n := rapid.IntRange(1, 60).Draw(t, "instructions")
		var code [][4]uint32
		for i := range n {
			left := uint32(n - i)
			hop := func(name string) uint32 { return rapid.Uint32Range(0, min(left-1, 255)).Draw(t, name) }
			switch rapid.IntRange(0, 7).Draw(t, "kind") {
			case 0, 1:
				code = append(code, [4]uint32{loadWord, 0, 0, rapid.SampledFrom([]uint32{0, 0, 4, 16, 20, 24}).Draw(t, "word")})
			case 2:
				code = append(code, [4]uint32{returnNumber, 0, 0, number.Draw(t, "verdict")})
			case 3:
				code = append(code, [4]uint32{jumpAlways, 0, 0, hop("far")})
			case 4:
				code = append(code, [4]uint32{andNumber, 0, 0, number.Draw(t, "bits")})
			default:
				op := rapid.SampledFrom([]uint32{jumpEqual, jumpEqual, jumpGreater, jumpAtLeast, jumpSet}).Draw(t, "test")
				code = append(code, [4]uint32{op, hop("yes"), hop("no"), number.Draw(t, "number")})
			}
		}
		filter := assembled(append(code, [4]uint32{returnNumber, 0, 0, 77})...)
		shrunk := shrink(filter)
		if len(shrunk) < len(filter) {
			smaller++
		}
		for _, arch := range []uint32{0, 3, auditArch, 0x40000003, 1<<32 - 1} {
			for _, nr := range numbers(filter) {
				for _, arg := range []uint64{0, 1, 5, 7, 200, 1 << 30, 5 << 32, 1<<64 - 1} {
					sameVerdict(t, filter, shrunk, seccompData{Arch: arch, Nr: nr, Args: [6]uint64{arg, arg ^ 1}})
				}
			}
		}
	})
	if smaller == 0 {
		t.Error("no filter was shrunk")
	}
}

// TestShrinkFarJumps has more outcomes than a comparison reaches over.
func TestShrinkFarJumps(t *testing.T) {
	code := [][4]uint32{{loadWord, 0, 0, wordNr}}
	for i := range uint32(600) {
		code = append(code, [4]uint32{jumpAtLeast, 0, 1, 7 * (600 - i)}, [4]uint32{returnNumber, 0, 0, i}, [4]uint32{jumpAlways, 0, 0, 0})
	}
	filter := assembled(append(code, [4]uint32{returnNumber, 0, 0, seccompAllow})...)
	shrunk := shrink(filter)
	if len(shrunk) >= len(filter) {
		t.Errorf("%d bytes of %d are left", len(shrunk), len(filter))
	}
	for nr := range uint32(5000) {
		sameVerdict(t, filter, shrunk, seccompData{Nr: nr})
	}
}

func BenchmarkShrink(b *testing.B) {
	filter := usualFilter(b)
	for b.Loop() {
		shrink(filter)
	}
}

func FuzzShrink(f *testing.F) {
	f.Add(assembled([4]uint32{loadWord}, [4]uint32{jumpEqual, 0, 1, 11}, [4]uint32{returnNumber}), uint32(11))
	f.Fuzz(func(t *testing.T, b []byte, nr uint32) {
		b = b[:len(b)/filterSize*filterSize]
		shrunk := shrink(b)
		if len(shrunk) < len(b) {
			sameVerdict(t, b, shrunk, seccompData{Nr: nr, Arch: auditArch})
		}
	})
}

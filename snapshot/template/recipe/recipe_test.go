package recipe

import (
	"encoding/binary"
	"testing"
)

func TestStoredRecipe(t *testing.T) {
	d := NewData(0x10000)
	first := d.String("abc")
	r := d.New()
	r.Call("open abc", Openat, Int(-100), At(first), Load(first)).Want(3).Into(first)
	r.Call("try", Close, Int(3)).Try()
	at := r.Store()
	if at != 0x10008 || first != 0x10000 {
		t.Fatalf("recipe at %#x, string at %#x", at, first)
	}
	op := d.Memory()[at-0x10000:]
	le := binary.LittleEndian
	minus100 := int64(-100)
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"call", uint64(le.Uint32(op)), 257},
		{"flags", uint64(le.Uint16(op[4:])), flagWant},
		{"loads", uint64(op[6]), 1 << 2},
		{"first argument", le.Uint64(op[8:]), uint64(minus100)},
		{"second argument", le.Uint64(op[16:]), 0x10000},
		{"out", le.Uint64(op[56:]), 0x10000},
		{"want", le.Uint64(op[64:]), 3},
		{"next call", uint64(le.Uint32(op[72:])), 3},
		{"its flags", uint64(le.Uint16(op[76:])), flagTry},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
	if r.What(1) != "try" || r.What(7) != "call 7" {
		t.Errorf("calls are for %q and %q", r.What(1), r.What(7))
	}
}

func TestPutLiesAsInMemory(t *testing.T) {
	d := NewData(64)
	d.Bytes([]byte{1})
	a := d.Put(struct {
		A uint32
		B uint16
		C uint16
		D uint64
	}{1, 2, 3, 4})
	if a != 72 {
		t.Fatalf("put at %d, want the next multiple of 8", a)
	}
	if got := len(d.Memory()); got != 8+16 {
		t.Errorf("data has %d bytes, want 24", got)
	}
	if d.Memory()[8] != 1 || d.Memory()[12] != 2 || d.Memory()[14] != 3 || d.Memory()[16] != 4 {
		t.Errorf("fields lie as % x", d.Memory()[8:])
	}
}

package recipe

import (
	"encoding/binary"
	"fmt"
)

// Arg is one argument of a call.
type Arg struct {
	v    uint64
	load bool
}

// Int is an argument that is a number.
func Int[T ~int | ~int32 | ~int64 | ~uint | ~uint16 | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{v: uint64(v)}
}

// At is an argument that is a pointer.
func At(a Addr) Arg { return Arg{v: uint64(a)} }

// Load is an argument whose value is the 64-bit word that lies at a when the call is made.
func Load(a Addr) Arg { return Arg{v: uint64(a), load: true} }

// Op is one call of a recipe.
type Op struct {
	call  Call
	flags uint16
	loads uint8
	args  [6]uint64
	out   Addr
	want  int64
	what  string
}

// Flags of an op; the stub has the same numbers.
const (
	flagTry  = 1 << 0 // goes on after a failure
	flagWant = 1 << 1 // any result but want is a failure
)

// Size of an op in memory. The stub has the same layout: call u32, flags u16, loads u8, unused u8, args 6×u64, out u64,
// want i64.
const opSize = 8 + 6*8 + 8 + 8

// Try lets the recipe go on when the call fails.
func (o *Op) Try() *Op {
	o.flags |= flagTry
	return o
}

// Want makes any result of the call but v a failure.
func (o *Op) Want(v int) *Op {
	o.flags |= flagWant
	o.want = int64(v)
	return o
}

// Into stores the call's result, a 64-bit word, at a.
func (o *Op) Into(a Addr) *Op {
	o.out = a
	return o
}

// Recipe is a list of calls, in order. A call that fails ends it, unless it was only tried.
type Recipe struct {
	data *Data
	ops  []*Op
}

// Call adds a call. What is said of it when it fails starts with what, "open /etc/passwd".
func (r *Recipe) Call(what string, call Call, args ...Arg) *Op {
	o := &Op{call: call, what: what}
	for i, a := range args {
		o.args[i] = a.v
		if a.load {
			o.loads |= 1 << i
		}
	}
	r.ops = append(r.ops, o)
	return o
}

// Data returns the memory that the recipe's arguments point into.
func (r *Recipe) Data() *Data { return r.data }

// Len returns how many calls there are.
func (r *Recipe) Len() int { return len(r.ops) }

// At returns the call at an index with its arguments as far as they are known: in place of a word that is loaded when the
// call is made there is its address.
func (r *Recipe) At(index int) (call Call, args [6]uint64) {
	return r.ops[index].call, r.ops[index].args
}

// What says what the call at an index was made for.
func (r *Recipe) What(index int) string {
	if index < 0 || index >= len(r.ops) {
		return fmt.Sprintf("call %d", index)
	}
	return r.ops[index].what
}

// Store puts the finished list into the recipe's own data and returns where it lies there.
func (r *Recipe) Store() Addr {
	b := make([]byte, 0, len(r.ops)*opSize)
	for _, o := range r.ops {
		b = binary.LittleEndian.AppendUint32(b, uint32(o.call))
		b = binary.LittleEndian.AppendUint16(b, o.flags)
		b = append(b, o.loads, 0)
		for _, a := range o.args {
			b = binary.LittleEndian.AppendUint64(b, a)
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(o.out))
		b = binary.LittleEndian.AppendUint64(b, uint64(o.want))
	}
	return r.data.Bytes(b)
}

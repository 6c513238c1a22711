package template

import (
	"github.com/checkpoint-restore/go-criu/v7/crit/images/core-x86"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// consumeField returns the number of the field that b begins with, its value where that is a number, and the length of
// both; a length of 0 or less says that b is no field.
func consumeField(b []byte) (number int, value uint64, size int) {
	n, kind, head := protowire.ConsumeTag(b)
	if head < 0 {
		return 0, 0, head
	}
	if kind == protowire.VarintType {
		v, tail := protowire.ConsumeVarint(b[head:])
		return int(n), v, head + tail
	}
	return int(n), 0, head + protowire.ConsumeFieldValue(n, kind, b[head:])
}

// Fields of CredsEntry that the package of messages does not know.
const (
	fieldNoNewPrivs = 18
	fieldAmbient    = 19
)

// ambient returns the ambient capabilities of an image.
func ambient(cr *creds.CredsEntry) uint64 {
	var words []uint32
	for _, v := range unknownNumbers(cr, fieldAmbient) {
		words = append(words, uint32(v))
	}
	return capabilities(words)
}

func noNewPrivs(cr *creds.CredsEntry) bool {
	v := unknownNumbers(cr, fieldNoNewPrivs)
	return len(v) > 0 && v[len(v)-1] != 0
}

// unknownNumbers returns the values of a field, a number, that the package of messages does not know.
func unknownNumbers(m proto.Message, field int) (values []uint64) {
	for b := []byte(m.ProtoReflect().GetUnknown()); len(b) > 0; {
		n, v, size := consumeField(b)
		if size <= 0 {
			break
		}
		if n == field {
			values = append(values, v)
		}
		b = b[size:]
	}
	return values
}

// shadowStack says whether an image has the state of a shadow stack that is in use: field 9, a message whose first field
// is the register that says so.
func shadowStack(x *core_x86.UserX86XsaveEntry) bool {
	for b := []byte(x.ProtoReflect().GetUnknown()); len(b) > 0; {
		n, _, size := consumeField(b)
		if size <= 0 {
			return true
		}
		if n == 9 {
			inner, _ := protowire.ConsumeBytes(b[protowire.SizeTag(9):size])
			_, v, got := consumeField(inner)
			return got <= 0 || v != 0
		}
		b = b[size:]
	}
	return false
}

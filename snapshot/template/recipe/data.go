package recipe

import (
	"bytes"
	"encoding/binary"
)

// Addr is an address in the template.
type Addr uint64

// Data is memory of the template that lies at a fixed address: what recipes point into.
type Data struct {
	base Addr
	b    []byte
}

// NewData returns empty data that will lie at base, a multiple of 64.
func NewData(base Addr) *Data { return &Data{base: base} }

// New returns an empty recipe whose arguments lie in the data.
func (d *Data) New() *Recipe { return &Recipe{data: d} }

const align = 8

// Bytes puts b into the data, at a multiple of 8.
func (d *Data) Bytes(b []byte) Addr {
	a := d.Space(len(b))
	copy(d.b[a-d.base:], b)
	return a
}

// String puts s into the data, with the zero byte that the kernel wants behind it.
func (d *Data) String(s string) Addr { return d.Bytes(append([]byte(s), 0)) }

// Put puts a structure of fixed size into the data, as it lies in memory: its fields in order, without padding.
func (d *Data) Put(v any) Addr {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
		panic(err) // not of fixed size: a mistake of the caller's
	}
	return d.Bytes(b.Bytes())
}

// Space puts n zero bytes into the data.
func (d *Data) Space(n int) Addr {
	for len(d.b)%align != 0 {
		d.b = append(d.b, 0)
	}
	a := d.base + Addr(len(d.b))
	d.b = append(d.b, make([]byte, n)...)
	return a
}

// Memory returns the data as it is to lie at its base.
func (d *Data) Memory() []byte { return d.b }

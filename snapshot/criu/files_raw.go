package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fifo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-packet"
)

const (
	magicRemapPath = 0x59133954
	magicGhostFile = 0x52583605
	magicSkQueues  = 0x56264026
)

// Remaps returns, by the ids of open files whose names lead to them no more, where what they are is kept.
func (im *Images) Remaps() (map[uint32]*remap_file_path.RemapFilePathEntry, error) {
	all, err := readAll[remap_file_path.RemapFilePathEntry](im.dir, "remap-fpath.img", magicRemapPath, true)
	if err != nil {
		return nil, err
	}
	out := make(map[uint32]*remap_file_path.RemapFilePathEntry, len(all))
	for _, r := range all {
		out[r.GetOrigId()] = r
	}
	return out, nil
}

// Ghost is a file that was open and had no name any more.
type Ghost struct {
	Entry  *ghost_file.GhostFileEntry
	File   string // the image, in the images directory
	Size   int64
	Chunks []GhostChunk
}

// GhostChunk is a stretch of a ghost's content. Between chunks there are zeros.
type GhostChunk struct {
	At     int64 // in the ghost
	Offset int64 // in the image
	Len    int64
}

// Ghost reads what there is of a deleted file, by the id that a remap has for it.
func (im *Images) Ghost(id uint32) (*Ghost, error) {
	g := &Ghost{Entry: &ghost_file.GhostFileEntry{}, File: fmt.Sprintf("ghost-file-%x.img", id)}
	path := filepath.Join(im.dir, g.File)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, im.complete(err)
	}
	total := int64(len(b))
	if b, err = afterMagic(b, magicGhostFile); err != nil {
		return nil, corrupt(path, "%w", err)
	}
	record, b, err := nextRecord(b)
	if err != nil {
		return nil, corrupt(path, "%w", err)
	}
	if err := decode(path, record, g.Entry); err != nil {
		return nil, err
	}
	if !g.Entry.GetChunks() {
		if g.Size = int64(len(b)); g.Size > 0 {
			g.Chunks = []GhostChunk{{0, total - g.Size, g.Size}}
		}
		return g, nil
	}
	g.Size = int64(min(g.Entry.GetSize(), math.MaxInt64))
	for len(b) > 0 {
		var c ghost_file.GhostChunkEntry
		if record, b, err = nextRecord(b); err != nil {
			return nil, corrupt(path, "%w", err)
		}
		if err := decode(path, record, &c); err != nil {
			return nil, err
		}
		if c.GetLen() > uint64(len(b)) || c.GetOff() > math.MaxInt64-c.GetLen() {
			return nil, corrupt(path, "ends within the content of the file")
		}
		g.Chunks = append(g.Chunks, GhostChunk{int64(c.GetOff()), total - int64(len(b)), int64(c.GetLen())})
		b = b[c.GetLen():]
	}
	return g, nil
}

// Bytes returns n bytes at an offset of the image file name.
func (im *Images) Bytes(name string, offset, n int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(im.dir, name))
	if err != nil {
		return nil, im.complete(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, offset); err != nil {
		return nil, corrupt(f.Name(), "read: %w", err)
	}
	return b, nil
}

// Fifo returns what the images say of an open fifo beside its name, flags and position, which File returns; nil where the
// file is no fifo.
func (im *Images) Fifo(id uint32) (*fifo.FifoEntry, error) {
	all, err := im.order()
	for _, f := range all {
		if f.GetId() == id && f.GetFifo() != nil {
			return f.GetFifo(), nil
		}
	}
	return nil, err
}

// Memfd returns the inode behind the memfd whose file id is given; nil where the images lack it.
func (im *Images) Memfd(file uint32) (*memfd.MemfdInodeEntry, error) { return im.memfd(file) }

// MemfdMode returns the permissions of a memfd; ok is false where the images do not say.
func MemfdMode(m *memfd.MemfdInodeEntry) (mode uint32, ok bool, err error) {
	f, err := unknown(m)
	v, ok := f[9]
	return uint32(v) & 0o7777, ok, err
}

// Packet is one message, or a stretch of a stream, that was sent to a socket and not yet received.
type Packet struct {
	Content []byte
	Rights  bool // descriptors come with it
}

// SocketQueues returns what waits to be received, by the file ids of the receiving sockets, in order.
func (im *Images) SocketQueues() (map[uint32][]Packet, error) {
	path := filepath.Join(im.dir, "sk-queues.img")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make(map[uint32][]Packet)
	for b, err = afterMagic(b, magicSkQueues); err == nil && len(b) > 0; {
		var record []byte
		if record, b, err = nextRecord(b); err != nil {
			break
		}
		var e sk_packet.SkPacketEntry
		if err = decode(path, record, &e); err != nil {
			break
		}
		n := e.GetLength()
		if uint64(n) > uint64(len(b)) {
			err = errors.New("ends within a message")
			break
		}
		out[e.GetIdFor()] = append(out[e.GetIdFor()], Packet{Content: b[:n:n], Rights: len(e.GetScm()) > 0})
		b = b[n:]
	}
	if err != nil {
		return nil, corrupt(path, "%w", err)
	}
	return out, nil
}

// InetOptions are options of a socket that CRIU records since later than the library's messages know of. An option that
// has its default is nil.
type InetOptions struct {
	TOS, TTL                     *uint32
	NoDelay, Cork                *uint32
	KeepCnt, KeepIdle, KeepIntvl *uint32
}

// InetOptionsOf returns the options of a socket that are not in its message's own fields.
func InetOptionsOf(s *sk_inet.InetSkEntry) (InetOptions, error) {
	var o InetOptions
	ip, err := unknown(s.GetIpOpts())
	if err != nil {
		return o, err
	}
	tcp := make(map[protowire.Number]uint64)
	for b := []byte(s.ProtoReflect().GetUnknown()); len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return o, protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return o, protowire.ParseError(n)
		}
		if num == 20 && typ == protowire.BytesType { // tcp_opts
			v, _ := protowire.ConsumeBytes(b)
			if tcp, err = fields(v); err != nil {
				return o, err
			}
		}
		b = b[n:]
	}
	get := func(m map[protowire.Number]uint64, n protowire.Number) *uint32 {
		if v, ok := m[n]; ok {
			return new(uint32(v))
		}
		return nil
	}
	o.TOS, o.TTL = get(ip, 6), get(ip, 7)
	o.Cork, o.NoDelay = get(tcp, 1), get(tcp, 2)
	o.KeepCnt, o.KeepIdle, o.KeepIntvl = get(tcp, 3), get(tcp, 4), get(tcp, 5)
	return o, nil
}

// unknown returns the numbers among the fields of a message that this build does not know.
func unknown(m proto.Message) (map[protowire.Number]uint64, error) {
	if !m.ProtoReflect().IsValid() {
		return nil, nil
	}
	return fields(m.ProtoReflect().GetUnknown())
}

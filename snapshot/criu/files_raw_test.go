package criu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/sk-packet"
)

func image(magic uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	return binary.LittleEndian.AppendUint32(b, magic)
}

func record(t testing.TB, b []byte, m proto.Message) []byte {
	t.Helper()
	r, err := proto.Marshal(m)
	ok(t, err)
	return appendRecord(b, r)
}

func TestGhostInChunks(t *testing.T) {
	dir := t.TempDir()
	b := record(t, image(magicGhostFile), &ghost_file.GhostFileEntry{Uid: new(uint32(0)), Gid: new(uint32(0)), Mode: new(uint32(0o100644)),
		Chunks: new(true), Size: new(uint64(10000))})
	for _, c := range []struct {
		at      uint64
		content string
	}{{0, "head"}, {9000, "tail of it"}} {
		b = append(record(t, b, &ghost_file.GhostChunkEntry{Off: &c.at, Len: new(uint64(len(c.content)))}), c.content...)
	}
	path := filepath.Join(dir, "ghost-file-1f.img")
	ok(t, os.WriteFile(path, b, 0o600))
	im := &Images{dir: dir}
	g, err := im.Ghost(0x1f)
	ok(t, err)
	if g.Size != 10000 || len(g.Chunks) != 2 || g.Chunks[1].At != 9000 {
		t.Fatalf("%+v", g)
	}
	if got, err := im.Bytes(g.File, g.Chunks[1].Offset, g.Chunks[1].Len); err != nil || string(got) != "tail of it" {
		t.Errorf("content %q, %v", got, err)
	}
	ok(t, os.WriteFile(path, b[:len(b)-1], 0o600))
	if _, err := im.Ghost(0x1f); err == nil {
		t.Error("a ghost that is cut short is taken for whole")
	}
}

func FuzzRawImages(f *testing.F) {
	ghost := record(f, image(magicGhostFile), &ghost_file.GhostFileEntry{Uid: new(uint32(0)), Gid: new(uint32(0)), Mode: new(uint32(0o100644))})
	f.Add(append(ghost, "content"...))
	queue := record(f, image(magicSkQueues), &sk_packet.SkPacketEntry{IdFor: new(uint32(3)), Length: new(uint32(5))})
	f.Add(append(queue, "hello"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		for _, name := range []string{"ghost-file-1.img", "sk-queues.img", "remap-fpath.img"} {
			ok(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		}
		im := &Images{dir: dir}
		if g, err := im.Ghost(1); err == nil {
			for _, c := range g.Chunks {
				if _, err := im.Bytes(g.File, c.Offset, c.Len); err != nil {
					t.Errorf("chunk %+v: %v", c, err)
				}
			}
		}
		packets, err := im.SocketQueues()
		n := 0
		for _, queue := range packets {
			for _, p := range queue {
				n += len(p.Content)
			}
		}
		if err == nil && n > len(b) {
			t.Errorf("%d bytes in an image of %d", n, len(b))
		}
		_, _ = im.Remaps()
	})
}

package store

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"path"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// IsPodmanArchive says whether what b is about to yield is a checkpoint archive of podman or CRI-O. It looks ahead, as
// far as b's buffer reaches, and consumes nothing.
func IsPodmanArchive(b *bufio.Reader) bool {
	head, _ := b.Peek(b.Size()) // what there is will do
	plain, err := decompress(bytes.NewReader(head))
	if err != nil {
		return false
	}
	defer plain.Close()
	for tr := tar.NewReader(plain); ; {
		h, err := tr.Next()
		if err != nil {
			return false
		}
		name := path.Clean(h.Name)
		first, _, _ := strings.Cut(name, "/")
		switch {
		case name == fileLayout || name == fileIndex || first == "blobs":
			return false
		case first == podmanImages || name == podmanConfig || name == podmanSpec:
			return true
		}
	}
}

// dumpStats makes the statistics file that CRIU writes after a dump, in its format, for readers that insist on one.
// Times that nobody noted are zero.
func dumpStats(cfg snapshot.Config) []byte {
	const imageMagic, statsMagic = 0x55105940, 0x57093306
	fields := [...]uint64{5: uint64(cfg.Memory.Pages), 7: uint64(cfg.Memory.Pages), 9: 0}
	for _, p := range cfg.Phases {
		if p.Name == string(snapshot.EffectDump) { // in which the tasks were frozen nearly all the time
			fields[2] = uint64(p.MS * 1000)
		}
	}
	var dump []byte
	for number, value := range fields {
		if number == 0 || number == 8 {
			continue
		}
		dump = binary.AppendUvarint(append(dump, byte(number<<3)), value)
	}
	message := binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(dump)))
	message = append(message, dump...)
	out := binary.LittleEndian.AppendUint32(nil, imageMagic)
	out = binary.LittleEndian.AppendUint32(out, statsMagic)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(message)))
	return append(out, message...)
}

package criu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
)

// coreName returns the name of the image of a thread; that of a process is the one of its first thread.
func coreName(tid uint32) string { return fmt.Sprintf("core-%d.img", tid) }

// rewriteCore replaces the image of a thread by what change makes of it, atomically. The image stays as it is when change
// returns false. What this build does not know of it is kept.
func (im *Images) rewriteCore(tid uint32, change func(*criu_core.CoreEntry) (bool, error)) error {
	path := filepath.Join(im.dir, coreName(tid))
	records, err := readImage(im.dir, coreName(tid), magicCore)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return corrupt(path, "has no record")
	}
	var core criu_core.CoreEntry
	if err := decode(path, records[0], &core); err != nil {
		return err
	}
	changed, err := change(&core)
	if err != nil {
		return corrupt(path, "%w", err)
	}
	if !changed {
		return nil
	}
	first, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&core)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	records[0] = first
	return replaceImage(im.dir, coreName(tid), magicCore, records)
}

// replaceImage writes an image anew, atomically.
func replaceImage(dir, name string, magic uint32, records [][]byte) error {
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = binary.LittleEndian.AppendUint32(b, magic)
	for _, r := range records {
		b = appendRecord(b, r)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

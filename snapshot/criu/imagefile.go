package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// An image file is two magic numbers, common and its own, and records: a 32-bit length and a protocol buffer each. The
// inventory, which tells formats apart, has only its own.
const (
	magicCommon    = 0x54564319
	magicInventory = 0x58313116
	magicPstree    = 0x50273030
	magicFdinfo    = 0x56213732
	magicPagemap   = 0x56084025
	magicCore      = 0x55053847
	magicIDs       = 0x54432030
	magicMM        = 0x57492820
	magicFiles     = 0x56303138
	magicMemfd     = 0x48453499
	magicFS        = 0x51403912
	magicTimens    = 0x43114433
	magicSeccomp   = 0x64413049
	magicUtsns     = 0x54473203
	magicPipesData = 0x56453709
	magicFifoData  = 0x59333054
	magicNetns     = 0x55933752
	magicIpcnsShm  = 0x46283044

	imageMax = 256 << 20 // no image but those of pages is anywhere near as long
)

// corrupt makes the error for an image that cannot be what CRIU wrote.
func corrupt(path, format string, args ...any) error {
	return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "read", On: path, Err: fmt.Errorf(format, args...),
		Hint: "the snapshot is damaged: take it again or import it again"}
}

// readImage returns the records of the image file name, unparsed.
func readImage(dir, name string, magic uint32) ([][]byte, error) {
	path := filepath.Join(dir, name)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > imageMax {
		return nil, corrupt(path, "not a file of at most %d bytes", imageMax)
	}
	b := make([]byte, fi.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, corrupt(path, "read: %w", err)
	}
	records, err := parseImage(b, magic)
	if err != nil {
		return nil, corrupt(path, "%w", err)
	}
	return records, nil
}

func parseImage(b []byte, magic uint32) ([][]byte, error) {
	b, err := afterMagic(b, magic)
	var records [][]byte
	for err == nil && len(b) > 0 {
		var r []byte
		if r, b, err = nextRecord(b); err == nil {
			records = append(records, r)
		}
	}
	return records, err
}

// afterMagic returns what follows the magic numbers.
func afterMagic(b []byte, magic uint32) ([]byte, error) {
	header := binary.LittleEndian.AppendUint32(nil, magic)
	if magic != magicInventory {
		header = append(binary.LittleEndian.AppendUint32(nil, magicCommon), header...)
	}
	b, ok := bytes.CutPrefix(b, header)
	if !ok {
		return nil, fmt.Errorf("does not start with %x", header)
	}
	return b, nil
}

func nextRecord(b []byte) (record, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errors.New("ends within the length of a record")
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, errors.New("ends within a record")
	}
	return b[4 : 4+n : 4+n], b[4+n:], nil
}

// appendRecord adds a record to an image.
func appendRecord(b, record []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(record)))
	return append(b, record...)
}

// decode parses one record. Fields that this build does not know, or knows as required and misses, are no error: image
// formats grow.
func decode(path string, record []byte, into proto.Message) error {
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(record, into); err != nil {
		return corrupt(path, "%w", err)
	}
	return nil
}

// readOne reads an image that has one record.
func readOne(dir, name string, magic uint32, into proto.Message) error {
	records, err := readImage(dir, name, magic)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return corrupt(filepath.Join(dir, name), "has no record")
	}
	return decode(filepath.Join(dir, name), records[0], into)
}

// readAll reads an image of any number of records. Where optional is set a missing file is an empty one.
func readAll[T any, P interface {
	*T
	proto.Message
}](dir, name string, magic uint32, optional bool) ([]P, error) {
	records, err := readImage(dir, name, magic)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]P, len(records))
	for i, r := range records {
		out[i] = P(new(T))
		if err := decode(filepath.Join(dir, name), r, out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

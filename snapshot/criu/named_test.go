package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"google.golang.org/protobuf/proto"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestPlaceFiles takes the place of a file away, as a dump does for an external one, and gives it back.
func TestPlaceFiles(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.CopyFS(dir, os.DirFS("testdata/images")))
	const name = "files.img"
	path := filepath.Join(dir, name)
	records, err := readImage(dir, name, magicFiles)
	ok(t, err)
	before, err := os.ReadFile(path)
	ok(t, err)

	const key = "file[c6:1d2f]"
	if got := ExternalFile(0xc6, 0x1d2f); got != key {
		t.Errorf("the name is %s", got)
	}
	var place Place
	for i, r := range records {
		f := &fdinfo.FileEntry{}
		ok(t, decode(path, r, f))
		if f.GetReg() == nil || f.Reg.MntId == nil {
			continue
		}
		place = Place{Path: f.Reg.GetName(), Mount: int(f.Reg.GetMntId()), Mode: f.Reg.GetMode()}
		f.Reg.Name, f.Reg.MntId, f.Reg.Ext = new(key), nil, new(true)
		records[i], err = proto.MarshalOptions{AllowPartial: true}.Marshal(f)
		ok(t, err)
		break
	}
	if place.Path == "" {
		t.Fatal("the images have no file on a mount")
	}
	ok(t, replaceImage(dir, name, magicFiles, records))

	ok(t, mustOpen(t, dir).PlaceFiles(map[string]Place{"file[c6:1d30]": place}))
	if now, _ := readImage(dir, name, magicFiles); !equalRecords(now, records) {
		t.Error("a file was changed whose place is not known")
	}
	ok(t, mustOpen(t, dir).PlaceFiles(map[string]Place{key: place, "file[1:1]": {Path: "/elsewhere"}}))
	after, err := os.ReadFile(path)
	ok(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the images are not as they were")
	}

	// A file of that name that the dump has a path for is none of ours.
	ok(t, mustOpen(t, dir).PlaceFiles(map[string]Place{place.Path: {Path: "/elsewhere"}}))
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("a file that was not external was changed (%v)", err)
	}

	ok(t, os.Truncate(path, int64(len(before)-1)))
	if err := mustOpen(t, dir).PlaceFiles(map[string]Place{key: place}); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("damaged images: %v", err)
	}
}

func equalRecords(a, b [][]byte) bool {
	return bytes.Equal(bytes.Join(a, []byte{0}), bytes.Join(b, []byte{0})) && len(a) == len(b)
}

package criu

import (
	"fmt"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"google.golang.org/protobuf/proto"
)

// Place is where a container has a file.
type Place struct {
	Path  string // from the container's root
	Mount int    // id of the mount that it is on, at the dump
	Mode  uint32 // as stat has it
}

// ExternalFile returns CRIU's name for the file of an inode that is reached through a mount. A dump with this name among
// DumpOptions.External does not ask where the file is. Its images have the name in place of a path, which no restore can
// do anything with: see [Images.PlaceFiles].
func ExternalFile(mount int, inode uint64) string { return fmt.Sprintf("file[%x:%x]", mount, inode) }

// PlaceFiles rewrites the images so that those files that the dump left external, and for whose name there is a place, are
// the container's own. It is for images that nothing but Open has read of yet. The image is replaced atomically.
func (im *Images) PlaceFiles(places map[string]Place) error {
	if len(places) == 0 {
		return nil
	}
	const name = "files.img"
	records, err := readImage(im.dir, name, magicFiles)
	if err != nil {
		return im.complete(err)
	}
	for i, r := range records {
		if records[i], err = placeFile(filepath.Join(im.dir, name), r, places); err != nil {
			return err
		}
	}
	return replaceImage(im.dir, name, magicFiles, records)
}

// placeFile returns the record of a file with the place of it. All but a few are returned as they are.
func placeFile(path string, record []byte, places map[string]Place) ([]byte, error) {
	f := &fdinfo.FileEntry{}
	if err := decode(path, record, f); err != nil {
		return nil, err
	}
	at, ok := places[f.GetReg().GetName()]
	if !ok || !f.GetReg().GetExt() {
		return record, nil
	}
	f.Reg.Name, f.Reg.MntId, f.Reg.Mode, f.Reg.Ext = new(at.Path), new(int32(at.Mount)), new(at.Mode), nil
	b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

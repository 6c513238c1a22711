package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"google.golang.org/protobuf/proto"
)

// ForgetMasters rewrites the mount images in the directory so that a mount which was the slave of a mount of the capturing
// host is a private one in clones: what the clone's host mounts on a volume later does not show in the clone.
// Propagation among the container's own mounts stays. It is to be called once for a dump.
//
// Without it CRIU wants every such mount's source to be shared on the restoring host, one source to show all of the
// mounts that had the same master, and all of them to be of one super block, which a private copy of a file is not.
// Wherever systemd is init each mount bound from the host has a master, unless the runtime made it private.
func ForgetMasters(images string) error {
	paths, err := filepath.Glob(filepath.Join(images, "mountpoints-*.img"))
	if err != nil {
		return err
	}
	files := make(map[string][]*mnt.MntEntry)
	own := make(map[uint32]bool) // peer groups with a member in the container
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		entries, err := parseMounts(b)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		files[path] = entries
		for _, e := range entries {
			own[e.GetSharedId()] = true
		}
	}
	for path, entries := range files {
		if forgetMasters(entries, own) {
			if err := writeMounts(path, entries); err != nil {
				return err
			}
		}
	}
	return nil
}

func forgetMasters(entries []*mnt.MntEntry, own map[uint32]bool) (changed bool) {
	for _, e := range entries {
		if e.GetMasterId() == 0 || own[e.GetMasterId()] {
			continue
		}
		changed = true
		e.MasterId = new(uint32(0))
		flags := e.GetFlags() &^ uint32(syscall.MS_SLAVE)
		if e.GetSharedId() == 0 {
			flags |= uint32(syscall.MS_PRIVATE)
		}
		e.Flags = &flags
	}
	return changed
}

// What every image file of CRIU starts with, and what the ones with mounts have next.
const (
	commonMagic = 0x54564319
	mountsMagic = 0x55563928
)

func parseMounts(b []byte) ([]*mnt.MntEntry, error) {
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != commonMagic || binary.LittleEndian.Uint32(b[4:]) != mountsMagic {
		return nil, errors.New("not an image of mounts")
	}
	var entries []*mnt.MntEntry
	for b = b[8:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, errors.New("cut short")
		}
		size := uint64(binary.LittleEndian.Uint32(b))
		if size > uint64(len(b)-4) {
			return nil, errors.New("cut short")
		}
		e := new(mnt.MntEntry)
		if err := proto.Unmarshal(b[4:4+size], e); err != nil {
			return nil, err
		}
		entries = append(entries, e)
		b = b[4+size:]
	}
	return entries, nil
}

// writeMounts replaces the image file at once.
func writeMounts(path string, entries []*mnt.MntEntry) error {
	b := binary.LittleEndian.AppendUint32(nil, commonMagic)
	b = binary.LittleEndian.AppendUint32(b, mountsMagic)
	for _, e := range entries {
		m, err := proto.Marshal(e)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

package sandbox

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
)

// Leases lists the ids of containers that hold an address of the bridge.
func (b Bridge) Leases() ([]string, error) {
	entries, err := os.ReadDir(b.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err != nil {
			continue
		}
		id, err := os.ReadFile(filepath.Join(b.Dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // given back meanwhile
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, string(id))
	}
	return ids, nil
}

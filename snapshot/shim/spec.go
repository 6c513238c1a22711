package shim

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// ReadSpec reads the OCI runtime spec of a container.
func ReadSpec(root, id string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(ContainerDir(root, id), "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read the spec of %s: %w", snapshot.ShortID(id), err)
	}
	return b, nil
}

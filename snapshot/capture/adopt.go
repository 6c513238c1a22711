package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// Adopt makes of a dump by runc or crun, which podman and CRI-O have checkpoints made by, what a capture makes of its own:
// the images in the directory are changed as clones need them, and cfg, of which Spec and Network are set, is completed.
// It returns the mode of the container's root directory, 0 where no image has it.
func Adopt(images string, cfg *snapshot.Config) (root uint32, err error) {
	im, err := criu.Open(images)
	if err != nil {
		return 0, err
	}
	own, err := im.SetNetns(netnsKey)
	if err != nil {
		return 0, err
	}
	cfg.NetnsKey = ""
	if own {
		cfg.NetnsKey = netnsKey
	}
	volumes, err := foreignVolumes(cfg.Spec)
	if err != nil {
		return 0, err
	}
	if cfg.Mounts, err = sandbox.PlanForeign(images, volumes); err != nil {
		return 0, err
	}
	for _, target := range slices.Sorted(maps.Keys(volumes)) {
		cfg.Volumes = append(cfg.Volumes, volumes[target]+":"+target)
	}
	if cfg.Stdio, err = foreignStdio(images); err != nil {
		return 0, err
	}
	if cfg.Memory, err = criu.ElideZeros(images); err != nil {
		return 0, err
	}
	before := cfg.Findings
	if err := describe(images, cfg); err != nil {
		return 0, err
	}
	cfg.Findings = append(before, cfg.Findings...)
	return im.RootMode()
}

// foreignVolumes returns what of the spec's bind mounts the engine did not make for the container: container path -> host
// path.
func foreignVolumes(spec []byte) (map[string]string, error) {
	var s specs.Spec
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "import", On: "the container's spec", Err: err}
	}
	volumes := make(map[string]string)
	for _, m := range s.Mounts {
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		// podman and CRI-O keep what they generate for a container in a directory of this name.
		if bind && !strings.Contains(m.Source, "/userdata/") && !slices.Contains(engineFiles, m.Destination) {
			volumes[filepath.Clean(m.Destination)] = m.Source
		}
	}
	return volumes, nil
}

var engineFiles = []string{"/dev/shm", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv", "/dev/termination-log"}

// foreignStdio reads what runc and crun note about the first descriptors of init: the names of its pipes, so that other
// ones can take their place.
func foreignStdio(images string) (keys [3]string, err error) {
	path := filepath.Join(images, "descriptors.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return keys, nil
	} else if err != nil {
		return keys, err
	}
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return keys, &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "read", On: path, Err: fmt.Errorf("not a list of names: %w", err)}
	}
	for fd, name := range names {
		if fd < len(keys) && strings.HasPrefix(name, "pipe:[") {
			keys[fd] = name
		}
	}
	return keys, nil
}

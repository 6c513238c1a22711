package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// PlanForeign decides for each mount in the images of somebody else's dump how a clone gets it. What the dump declared
// external, under whatever name, must be provided; all else CRIU makes again. volumes says which paths of the container
// showed a path of its host: clones share that path of theirs. Other external files begin empty, unless the sandbox
// generates them.
func PlanForeign(images string, volumes map[string]string) ([]snapshot.Mount, error) {
	paths, err := filepath.Glob(filepath.Join(images, "mountpoints-*.img"))
	if err != nil {
		return nil, err
	}
	if len(paths) != 1 {
		return nil, &snapshot.Error{Kind: snapshot.KindUncloneable, Op: "plan mounts", On: images,
			Err: fmt.Errorf("its processes lived in %d mount namespaces of their own, not one", len(paths))}
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		return nil, err
	}
	entries, err := parseMounts(b)
	if err != nil {
		return nil, &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "read", On: paths[0], Err: err}
	}
	var plan []snapshot.Mount
	for _, e := range slices.Backward(entries) { // CRIU writes the last mount first
		plan = append(plan, foreign(e, volumes))
	}
	if !slices.ContainsFunc(plan, func(m snapshot.Mount) bool { return m.Kind == snapshot.MountRoot }) {
		return nil, &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "read", On: paths[0], Err: errors.New("no root mount")}
	}
	return plan, nil
}

// CRIU's numbers of file system types.
const (
	criuTmpfs   = 5
	criuCgroup  = 12
	criuCgroup2 = 23
)

func foreign(e *mnt.MntEntry, volumes map[string]string) snapshot.Mount {
	m := snapshot.Mount{Path: e.GetMountpoint(), Kind: snapshot.MountNative, FSType: e.GetFsname()}
	switch e.GetFstype() {
	case criuTmpfs:
		m.FSType = "tmpfs"
	case criuCgroup:
		m.FSType = "cgroup"
	case criuCgroup2:
		m.FSType = "cgroup2"
	}
	if m.Path == "/" {
		m.Kind = snapshot.MountRoot
		return m
	}
	m.Key = e.GetExtKey()
	source, isVolume := volumes[m.Path]
	switch {
	case m.Key == "":
		m.Sub = e.GetRoot()
	case m.Key == os.DevNull:
		m.Kind = snapshot.MountNull
	case m.FSType == "cgroup":
		m.Kind, m.Source = snapshot.MountCgroup, hierarchyName(e.GetOptions())
	case m.FSType == "cgroup2":
		m.Kind = snapshot.MountCgroup
	case isVolume:
		m.Kind, m.Source = snapshot.MountBind, source
	case m.FSType == "tmpfs" && e.GetRoot() == "/":
		m.Kind, m.Options = snapshot.MountTmpfs, tmpfsOptions(e.GetOptions())
		if m.Path == shm && !strings.Contains(m.Options, "mode=") {
			m.Options = strings.TrimPrefix(m.Options+",mode=1777", ",")
		}
	default:
		m.Kind = snapshot.MountFile
	}
	return m
}

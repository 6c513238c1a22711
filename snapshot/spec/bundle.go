package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// FromBundle reads the config.json of the OCI bundle dir and returns it with the absolute path of its root file
// system. Root path and sources of bind mounts, which a bundle may give relative to itself, are made absolute.
func FromBundle(dir string) (*specs.Spec, string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, "", err
	}
	s, err := readConfig(dir)
	if err != nil {
		return nil, "", err
	}
	if err := checkBundle(s); err != nil {
		return nil, "", badBundle(dir, err)
	}
	s.Root.Path = absolute(dir, s.Root.Path)
	for i, m := range s.Mounts {
		if isBind(m) {
			s.Mounts[i].Source = absolute(dir, m.Source)
		}
	}
	info, err := os.Stat(s.Root.Path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", s.Root.Path)
	}
	if err != nil {
		return nil, "", badBundle(dir, fmt.Errorf("root file system: %w", err))
	}
	return s, s.Root.Path, nil
}

func readConfig(dir string) (*specs.Spec, error) {
	const most = 16 << 20
	file, err := os.Open(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &snapshot.Error{Kind: snapshot.KindNotFound, Op: "bundle", On: dir, Err: err,
			Hint: "an OCI bundle is a directory with a config.json; for a plain root file system use --rootfs"}
	}
	if err != nil {
		return nil, badBundle(dir, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && len(data) > most {
		err = errors.New("config.json is larger than 16 MiB")
	}
	if err != nil {
		return nil, badBundle(dir, err)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, badBundle(dir, fmt.Errorf("config.json: %w", err))
	}
	return &s, nil
}

func checkBundle(s *specs.Spec) error {
	switch {
	case s.Version == "":
		return errors.New("config.json has no ociVersion")
	case !strings.HasPrefix(s.Version, "1."):
		return fmt.Errorf("ociVersion %q is not 1.x", s.Version)
	case s.Windows != nil || s.VM != nil || s.Solaris != nil || s.ZOS != nil:
		return errors.New("it is for another platform than Linux")
	case s.Linux == nil:
		return errors.New("config.json has no linux section")
	case s.Root == nil || s.Root.Path == "":
		return errors.New("config.json names no root.path")
	case s.Process == nil || len(s.Process.Args) == 0 || s.Process.Args[0] == "":
		return errors.New("config.json names no process.args")
	case !filepath.IsAbs(s.Process.Cwd):
		return fmt.Errorf("process.cwd %q is not an absolute path", s.Process.Cwd)
	}
	for i, m := range s.Mounts {
		if m.Destination == "" || strings.ContainsRune(m.Destination+m.Source, 0) {
			return fmt.Errorf("mounts[%d] has no usable destination", i)
		}
		if isBind(m) && m.Source == "" {
			return fmt.Errorf("mount %s is a bind mount without a source", m.Destination)
		}
	}
	return nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

func badBundle(dir string, err error) error {
	return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "bundle", On: dir, Err: err,
		Hint: "`runc spec` writes a config.json that works"}
}

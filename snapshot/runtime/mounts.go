package runtime

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// mountAt returns the mount that path shows: the last one made there.
func mountAt(mounts []proc.Mount, path string) *proc.Mount {
	for i, m := range slices.Backward(mounts) {
		if m.Mountpoint == path {
			return &mounts[i]
		}
	}
	return nil
}

func (s *Source) observeMounts(spec *specs.Spec, own []string) error {
	mounts, err := proc.Mounts(s.Pid)
	if err != nil {
		return err
	}
	root := mountAt(mounts, "/")
	if root == nil {
		return errors.New("its mount table has no root")
	}
	if err := s.observeRoot(root); err != nil {
		return err
	}
	s.Files = make(map[string]bool)
	s.Volumes = maps.Clone(s.Volumes)
	if s.Volumes == nil {
		s.Volumes = make(map[string]string)
	}
	for _, m := range spec.Mounts {
		name := filepath.Clean(m.Destination)
		path := s.inside(name)
		seen := mountAt(mounts, path)
		if seen == nil || !isBind(m) || kernelMade(seen.FSType) {
			continue
		}
		if source, asked := s.Volumes[name]; asked {
			delete(s.Volumes, name)
			s.Volumes[path] = source
			continue
		}
		source := absolute(s.Bundle, m.Source)
		switch {
		case below(source, own):
			// A whole tmpfs (podman's /dev/shm) is no file to copy: the mount table says all about it.
			if seen.FSType != "tmpfs" || seen.Root != "/" {
				s.Files[path] = true
			}
		case slices.Contains([]string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"}, name):
			s.Files[path] = true
		default:
			s.Volumes[path] = source
		}
	}
	return nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// kernelMade says whether a file system shows the kernel's state rather than somebody's files.
func kernelMade(fstype string) bool {
	return slices.Contains([]string{"proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "securityfs", "debugfs", "tracefs", "bpf"}, fstype)
}

func below(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool {
		return d != "" && (path == d || strings.HasPrefix(path, strings.TrimSuffix(d, "/")+"/"))
	})
}

// inside resolves a mount's destination as the runtime did: through the symbolic links of the container's root
// (Debian's /var/run is /run). A path that cannot be resolved stays as it is.
func (s *Source) inside(path string) string {
	root := fmt.Sprintf("/proc/%d/root", s.Pid)
	done := "/"
	rest := strings.Split(strings.Trim(path, "/"), "/")
	for hops := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := filepath.Join(done, name)
		target, err := os.Readlink(root + next)
		if err != nil {
			done = next
			continue
		}
		if hops++; hops > 40 {
			return path
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
	}
	return done
}

// observeRoot finds what the root file system is made of.
func (s *Source) observeRoot(root *proc.Mount) error {
	hintUpper, hintLower := s.Upper, s.Lower
	s.Upper, s.Lower, s.Overlay = "", nil, nil
	// A root below the top of an overlay belongs to an overlay that is somebody else's, perhaps the host's own root.
	if root.FSType == "overlay" && root.Root == "/" {
		o, err := parseOverlay(root.VFSOptions)
		if err != nil {
			return err
		}
		if upper, lower, ok := o.resolve(hintUpper); ok {
			s.Upper, s.Lower, s.Overlay = upper, lower, o.other
			return nil
		}
		if hintUpper != "" && len(hintLower) > 0 && allDirs(append([]string{hintUpper}, hintLower...)) && !o.dataOnly {
			s.Upper, s.Lower, s.Overlay = hintUpper, hintLower, o.other
			return nil
		}
	}
	if root.FSType == "fuse.fuse-overlayfs" && hintUpper != "" && allDirs(append([]string{hintUpper}, hintLower...)) {
		s.Upper, s.Lower = hintUpper, hintLower
		return nil
	}
	dir, err := s.plainRoot()
	s.Lower = []string{dir}
	return err
}

// plainRoot returns a path on this host at which the container's root can be read without what is mounted over it, or
// /proc/PID/root when the mount cannot be seen from here.
func (s *Source) plainRoot() (string, error) {
	inside := fmt.Sprintf("/proc/%d/root", s.Pid)
	want, err := os.Stat(inside + "/")
	if err != nil {
		return "", err
	}
	if got, err := os.Stat(s.Rootfs); err == nil && os.SameFile(got, want) {
		return s.Rootfs, nil
	}
	return inside, nil
}

func allDirs(paths []string) bool {
	return !slices.ContainsFunc(paths, func(p string) bool {
		fi, err := os.Stat(p)
		return err != nil || !fi.IsDir()
	})
}

package spec

import (
	"path"
	"strconv"
	"strings"
)

// ParseVolume takes SOURCE:TARGET or SOURCE:TARGET:MODE apart, both paths absolute, MODE "ro" or "rw". Whether the
// source exists is not looked at.
func ParseVolume(s string) (source, target string, ro bool, err error) {
	const form = "write SOURCE:TARGET or SOURCE:TARGET:ro, both absolute paths"
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || strings.ContainsRune(s, 0) {
		return "", "", false, invalid("volume", s, "is not SOURCE:TARGET[:ro]", form)
	}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			ro = true
		case "rw":
		default:
			return "", "", false, invalid("volume", s, "has an unknown mode "+strconv.Quote(parts[2]), "the modes are ro and rw")
		}
	}
	source, target = parts[0], parts[1]
	switch {
	case !path.IsAbs(source):
		return "", "", false, invalid("volume", s, "has a source that is not an absolute path",
			"there are no named volumes: name a directory or a file of the host with its full path")
	case !path.IsAbs(target):
		return "", "", false, invalid("volume", s, "has a target that is not an absolute path", form)
	}
	source, target = path.Clean(source), path.Clean(target)
	if err := checkTarget(s, source, target); err != nil {
		return "", "", false, err
	}
	return source, target, ro, nil
}

// checkTarget refuses to replace what the kernel shows of a container in it, and what the runtime mounts things in: it
// would make its mount points in the source.
func checkTarget(volume, source, target string) error {
	switch {
	case target == "/":
		return invalid("volume", volume, "would replace the whole root file system", "use --rootfs for that")
	case target == "/proc":
		return invalid("volume", volume, "would replace the container's /proc", "choose another target")
	case target == "/dev", target == "/sys" && source != "/sys":
		return invalid("volume", volume, "would replace the container's "+target, "choose another target, or a single path below "+target)
	}
	return nil
}

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
	case path.Clean(target) == "/":
		return "", "", false, invalid("volume", s, "would replace the whole root file system", "use --rootfs for that")
	}
	return path.Clean(source), path.Clean(target), ro, nil
}

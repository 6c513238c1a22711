package spec

import (
	"math"
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

// ParseBytes reads a size as Docker writes it: a number, perhaps with a fraction, and a binary unit b, k, m, g, t or p
// in either case, perhaps followed by "b" or "ib". "1.5g" is 1610612736.
func ParseBytes(s string) (int64, error) {
	bad := invalid("size", s, "is not a number of bytes", "write it as 512m, 1.5g or 1073741824")
	number := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := strings.ToLower(s[len(number):])
	number = strings.TrimSuffix(number, " ")
	if number == "" || strings.Trim(number, "0123456789.") != "" {
		return 0, bad
	}
	if len(unit) > 1 { // "kb" and "kib" are "k"
		if unit[1:] != "b" && unit[1:] != "ib" || unit[0] == 'b' {
			return 0, bad
		}
		unit = unit[:1]
	}
	exponent := 0
	if unit != "" {
		if exponent = strings.Index("bkmgtp", unit); exponent < 0 {
			return 0, bad
		}
	}
	scale := int64(1) << (10 * exponent)
	if n, err := strconv.ParseInt(number, 10, 64); err == nil { // exact, where a float would round
		if n > math.MaxInt64/scale {
			return 0, bad
		}
		return n * scale, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f*float64(scale) >= math.MaxInt64 {
		return 0, bad
	}
	return int64(f * float64(scale)), nil
}

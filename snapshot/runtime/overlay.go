package runtime

import (
	"errors"
	"path/filepath"
	"strings"
)

// overlay is the options of an overlay mount as the kernel prints them in mountinfo. Directories are as they were given
// to mount(2): perhaps relative to the working directory of whoever mounted it.
type overlay struct {
	upper, work string
	lower       []string // topmost first
	dataOnly    bool     // it has layers that only serve the data of others
	other       []string
}

func parseOverlay(options string) (overlay, error) {
	var o overlay
	for opt := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(opt, "=")
		value = unescapeOctal(value)
		switch key {
		case "upperdir":
			o.upper = unescapeColon(value)
		case "workdir":
			o.work = unescapeColon(value)
		case "lowerdir":
			lower, data := splitLower(value)
			o.lower = append(o.lower, lower...)
			o.dataOnly = o.dataOnly || data
		case "lowerdir+":
			o.lower = append(o.lower, value)
		case "datadir+":
			o.dataOnly = true
		case "rw", "ro":
		default:
			o.other = append(o.other, opt)
		}
	}
	if len(o.lower) == 0 {
		return o, errors.New("its root is an overlay with no lower directory")
	}
	return o, nil
}

// splitLower splits the value of lowerdir at colons that no backslash protects. Two colons in a row begin the layers
// that only serve data.
func splitLower(value string) (dirs []string, dataOnly bool) {
	start := 0
	for i := 0; i <= len(value); i++ {
		switch {
		case i+1 < len(value) && value[i] == '\\':
			i++
		case i == len(value) || value[i] == ':':
			if i == start {
				return dirs, true
			}
			dirs = append(dirs, unescapeColon(value[start:i]))
			start = i + 1
		}
	}
	return dirs, false
}

// unescapeColon takes away the backslashes that overlay wants before colons, commas and backslashes in a path.
func unescapeColon(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unescapeOctal undoes the kernel's \040 for bytes that would break the line's syntax.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// resolve returns the directories as absolute paths of this host, without symbolic links. Relative ones are tried
// against the ancestors of the absolute ones and of hint, which is the upper directory as the engine names it or empty:
// engines shorten paths to the directory of their storage driver. It fails when a directory cannot be seen from here.
func (o overlay) resolve(hint string) (upper string, lower []string, ok bool) {
	if o.upper == "" || o.dataOnly {
		return "", nil, false
	}
	for _, base := range o.bases(hint) {
		all := make([]string, 0, len(o.lower)+1)
		for _, p := range append([]string{o.upper}, o.lower...) {
			real, err := filepath.EvalSymlinks(absolute(base, p))
			if err != nil {
				break
			}
			all = append(all, real)
		}
		if len(all) == len(o.lower)+1 && allDirs(all) {
			return all[0], all[1:], true
		}
	}
	return "", nil, false
}

func (o overlay) bases(hint string) []string {
	bases := []string{"/"} // enough when all are absolute
	for _, p := range []string{hint, o.upper, o.work} {
		if !filepath.IsAbs(p) {
			continue
		}
		for d := filepath.Dir(filepath.Clean(p)); d != "/"; d = filepath.Dir(d) {
			bases = append(bases, d)
		}
	}
	return bases
}

package tarball

import (
	"errors"
	"path"
	"strings"
)

// CheckName refuses a name in an archive that is empty, absolute or goes up, and so may lead out of where the archive
// is unpacked. Where symbolic links of the archive lead is not a matter of names.
func CheckName(name string) error {
	if name == "" {
		return errors.New("an empty name")
	}
	if path.IsAbs(name) {
		return errors.New("an absolute name")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return errors.New(`".." in a name`)
		}
	}
	return nil
}

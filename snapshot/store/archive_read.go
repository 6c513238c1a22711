package store

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// archiveHint says what import takes.
const archiveHint = "import reads what `snapd-ctr snapshots export` or `podman container checkpoint --export` wrote; " +
	"to start a container of an image: `snapd-ctr run --image FILE`"

// errStranger is what is wrong with an entry that its format does not have.
var errStranger = errors.New("it does not belong in such an archive")

// notArchive says that what was given is no archive of a snapshot at all.
func notArchive(format string, args ...any) error {
	return invalid("import", "the archive", archiveHint, format, args...)
}

// archiveError is about the archive unless this host is the trouble.
func archiveError(entry string, err error) error {
	return unpackError("archive", entry, err)
}

// readArchive reads a tar, plain or compressed, and gives each of its entries but the directories to take, with a clean
// name that does not lead out of the archive. An error of take that has no kind is damage of the entry. What does not
// begin as such an archive does is KindInvalid.
func readArchive(ctx context.Context, r io.Reader, take func(h *tar.Header, name string, content io.Reader) error) error {
	plain, err := decompress(contextReader{ctx, r})
	if err != nil && snapshot.KindOf(err) != snapshot.KindFailed {
		return err
	}
	if err != nil {
		return archiveError("the archive's beginning", err)
	}
	defer plain.Close()
	tr := tar.NewReader(plain)
	for taken := false; ; {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && !taken:
			return notArchive("not an archive: it is empty")
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !taken && !hostTrouble(err):
			return notArchive("not an archive: %w", err)
		case err != nil:
			return archiveError("the archive", err)
		}
		where := fmt.Sprintf("%q", h.Name)
		if err := tarball.CheckName(h.Name); err != nil {
			return archiveError(where, err)
		}
		if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		switch err := take(h, path.Clean(h.Name), tr); {
		case errors.Is(err, errStranger) && !taken:
			return notArchive("not an archive of a snapshot: it holds %s", where)
		case err != nil && snapshot.KindOf(err) != snapshot.KindFailed:
			return err
		case err != nil:
			return archiveError(where, err)
		}
		taken = true
	}
}

// readSmall reads an entry that is kept in memory.
func readSmall(r io.Reader, size int64) ([]byte, error) {
	if size > maxJSON {
		return nil, fmt.Errorf("it has %d bytes, more than %d", size, maxJSON)
	}
	return io.ReadAll(r)
}

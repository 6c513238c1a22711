package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"

	digest "github.com/opencontainers/go-digest"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// layer is what is known of a layer before it is read.
type layer struct {
	name   string        // for messages
	digest digest.Digest // of the bytes as they are stored in the image; empty: not known
	size   int64         // with digest
	diffID digest.Digest // of the plain tar; empty: not known
}

// addLayer streams a layer into the store and returns its digest there.
func (l *loader) addLayer(ctx context.Context, want layer, r io.Reader) (string, error) {
	r = &cancellable{ctx, r}
	if want.digest != "" {
		verified, err := newVerifier(r, want.digest, want.size)
		if err != nil {
			return "", corrupt(want.name, err)
		}
		r = verified
	}
	buffered := bufio.NewReaderSize(r, 64<<10)
	format, err := tarball.Sniff(buffered)
	if err != nil {
		return "", named(want.name, err)
	}
	var source io.Reader = buffered
	if format == tarball.XZ { // no media type for that
		x, err := open(ctx, format, buffered)
		if err != nil {
			return "", err
		}
		defer x.Close()
		source, format = x, tarball.Plain
	}
	in := inspect(ctx, source, format, want.diffID)
	defer in.close()
	added, err := l.to.AddLayer(ctx, in, format.LayerType())
	if in.err == nil && err == nil { // a store may stop early when it has the layer already
		_, _ = io.Copy(io.Discard, in)
	}
	if in.err != nil && !errors.Is(in.err, io.EOF) { // the cause of whatever the store says
		return "", named(want.name, in.err)
	}
	if err != nil {
		return "", fmt.Errorf("store %s: %w", want.name, err)
	}
	return added, nil
}

// named says which layer an error is about. Damage found while reading is of KindCorrupt.
func named(what string, err error) error {
	if damage, ok := errors.AsType[*tarball.DamageError](err); ok {
		return corrupt(what, damage.Err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// verifier passes a blob through and fails in place of its end when it does not have the size and digest it should.
type verifier struct {
	r    io.Reader
	want digest.Digest
	size int64
	hash hash.Hash
	read int64
}

func newVerifier(r io.Reader, want digest.Digest, size int64) (*verifier, error) {
	if err := want.Validate(); err != nil {
		return nil, err
	}
	return &verifier{r: r, want: want, size: size, hash: want.Algorithm().Hash()}, nil
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.read += int64(n)
	switch {
	case v.read > v.size:
		return 0, damaged(fmt.Errorf("it is longer than the %d bytes it should have", v.size))
	case err != io.EOF:
		return n, err
	case v.read < v.size:
		return n, damaged(fmt.Errorf("it is truncated: %d of %d bytes", v.read, v.size))
	case digest.NewDigest(v.want.Algorithm(), v.hash) != v.want:
		return n, damaged(errors.New("its content does not match its digest"))
	}
	return n, io.EOF
}

// inspector passes the bytes of a layer through to the store, and meanwhile unpacks them to see whether they are a
// sound tar with harmless names. Its end is reported only after that has been found good.
type inspector struct {
	r       io.Reader
	pipe    *io.PipeWriter
	verdict chan error
	err     error // once set, all that Read returns
}

func inspect(ctx context.Context, r io.Reader, format tarball.Compression, diffID digest.Digest) *inspector {
	pr, pw := io.Pipe()
	in := &inspector{r: r, pipe: pw, verdict: make(chan error, 1)}
	go func() {
		err := inspectTar(ctx, pr, format, diffID)
		pr.CloseWithError(err) // with nil: later writes fail with io.ErrClosedPipe, and there are none
		in.verdict <- err
	}()
	return in
}

func (in *inspector) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(p)
	if n > 0 {
		if _, failed := in.pipe.Write(p[:n]); failed != nil {
			in.err = failed
			return 0, failed
		}
	}
	if err == io.EOF {
		in.pipe.Close()
		if bad := <-in.verdict; bad != nil {
			n, err = 0, bad
		}
		in.verdict <- nil // for close
	}
	in.err = err
	return n, err
}

// close ends the inspection, whether the layer was read to its end or not.
func (in *inspector) close() {
	in.pipe.CloseWithError(errors.New("abandoned"))
	<-in.verdict //nolint:errcheck // of a layer that nobody wants any more
}

func inspectTar(ctx context.Context, r io.Reader, format tarball.Compression, diffID digest.Digest) error {
	body, err := open(ctx, format, r)
	if err != nil {
		return err
	}
	defer body.Close()
	algorithm := digest.Canonical
	if diffID != "" {
		if err := diffID.Validate(); err != nil {
			return damaged(err)
		}
		algorithm = diffID.Algorithm()
	}
	sum := algorithm.Hash()
	hashed := io.TeeReader(body, sum)
	if err := checkEntries(tar.NewReader(hashed)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, hashed); err != nil { // zeros after the tar's end
		return damaged(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if diffID != "" && digest.NewDigest(algorithm, sum) != diffID {
		return damaged(errors.New("its content does not match the digest in the image's configuration"))
	}
	return nil
}

func checkEntries(t *tar.Reader) error {
	for {
		h, err := t.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return damaged(err)
		case !harmless(h.Name), h.Typeflag == tar.TypeLink && !harmless(h.Linkname):
			name := h.Name
			if harmless(name) {
				name = h.Linkname
			}
			return faultf(snapshot.KindInvalid, "make the archive with relative names (tar without -P)",
				"it holds the name %q, which leads out of the root file system", name)
		}
	}
}

// harmless says whether a name in an archive stays below where the archive is unpacked. Symbolic links may point
// anywhere: they are followed inside the container only.
func harmless(name string) bool {
	if path.Clean(name) == "/" {
		return true // some tools write an entry for the root directory like that
	}
	return tarball.CheckName(name) == nil
}

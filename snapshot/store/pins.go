package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// pin is a pulled image: its layers are kept, and its config says how to run it.
type pin struct {
	Base   snapshot.Base   `json:"base"`
	Config json.RawMessage `json:"config"`
}

// AddLayer stores an OCI layer, a tar that may be compressed with gzip or zstd, as it is, and returns its digest.
// What the stream is, is told by its first bytes; mediaType is checked against that. The blob is kept from the garbage
// collector until PinImage or a snapshot names it, or this process ends.
func (s *Store) AddLayer(ctx context.Context, r io.Reader, mediaType string) (string, error) {
	e, err := s.pendingLease()
	if err != nil {
		return "", failure("add layer", s.dir, err)
	}
	b, err := e.stage(contextReader{ctx, r})
	if err != nil {
		return "", failure("add layer", mediaType, err)
	}
	if err := checkLayer(b.path, mediaType); err != nil {
		return "", errors.Join(err, os.Remove(b.path))
	}
	if err := s.adopt(e, b); err != nil {
		return "", failure("add layer", b.digest, err)
	}
	return b.digest, failure("add layer", b.digest, syncPath(s.blobPath(b.digest)))
}

func (s *Store) pendingLease() (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		e, err := s.newLease()
		if err != nil {
			return nil, err
		}
		s.pending = e
	}
	return s.pending, nil
}

// contextReader ends a stream when ctx does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// PinImage remembers an image under its reference, so that its layers, which must be there, are kept. An earlier pin
// of the same reference is replaced.
func (s *Store) PinImage(ref string, base snapshot.Base, config []byte) error {
	if ref == "" {
		return invalid("pin image", ref, "", "an image needs a reference")
	}
	if !json.Valid(config) {
		return invalid("pin image", ref, "", "its config is not JSON")
	}
	l, err := s.lockStore(true)
	if err != nil {
		return failure("pin image", ref, err)
	}
	defer l.Close()
	for _, d := range base.Layers {
		if err := checkDigest(d); err != nil {
			return invalid("pin image", ref, "", "%w", err)
		}
		if _, err := os.Stat(s.blobPath(d)); err != nil {
			return missing("pin image", d, err)
		}
	}
	pins, err := s.readPins()
	if err != nil {
		return err
	}
	pins[ref] = pin{Base: base, Config: config}
	b, err := json.MarshalIndent(pins, "", "  ")
	if err != nil {
		return failure("pin image", ref, err)
	}
	return failure("pin image", ref, s.replaceFile(filePins, b))
}

// Image returns what PinImage remembered, KindNotFound when nothing.
func (s *Store) Image(ref string) (snapshot.Base, []byte, error) {
	pins, err := s.readPins()
	if err != nil {
		return snapshot.Base{}, nil, err
	}
	p, ok := pins[ref]
	if !ok {
		return snapshot.Base{}, nil, &snapshot.Error{Kind: snapshot.KindNotFound, Op: "find image", On: ref,
			Err: errors.New("it has not been pulled")}
	}
	return p.Base, p.Config, nil
}

func (s *Store) readPins() (map[string]pin, error) {
	pins := make(map[string]pin)
	b, err := os.ReadFile(s.path(filePins))
	if errors.Is(err, fs.ErrNotExist) {
		return pins, nil
	}
	if err != nil {
		return nil, failure("read images", s.dir, err)
	}
	if err := json.Unmarshal(b, &pins); err != nil {
		return nil, corrupt("read images", s.path(filePins), "%w", err)
	}
	for ref, p := range pins {
		if i := slices.IndexFunc(p.Base.Layers, func(d string) bool { return checkDigest(d) != nil }); i >= 0 {
			return nil, corrupt("read images", s.path(filePins), "%s: %q is no digest", ref, p.Base.Layers[i])
		}
	}
	return pins, nil
}

// checkLayer holds a layer's first bytes against the media type that somebody gave it. An empty one claims nothing.
func checkLayer(path, mediaType string) error {
	real, err := layerMediaType(path)
	if err != nil {
		return failure("add layer", mediaType, err)
	}
	if want := normalLayerType(mediaType); want != "" && want != real {
		return corrupt("add layer", mediaType, "the content is %s", real)
	}
	if err := checkTar(path); err != nil {
		return corrupt("add layer", fmt.Sprintf("%q", mediaType), "%w", err)
	}
	return nil
}

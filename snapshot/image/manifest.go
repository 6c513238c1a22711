package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// blobs is a place that holds the blobs of OCI images.
type blobs interface {
	// open returns the bytes of a blob, unverified. An error for a blob that is not there says so.
	open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
}

const (
	mostMetadata = 8 << 20 // bytes of a manifest or configuration
	mostNesting  = 4       // of indexes
	dockerConfig = "application/vnd.docker.container.image.v1+json"
)

// document is a manifest or an index: which of them, its content says.
type document struct {
	MediaType     string          `json:"mediaType"`
	SchemaVersion int             `json:"schemaVersion"`
	ArtifactType  string          `json:"artifactType"`
	Manifests     []v1.Descriptor `json:"manifests"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
}

// loadTree loads the image that root, a manifest or an index, stands for.
func (l *loader) loadTree(ctx context.Context, from blobs, root v1.Descriptor) (*Image, error) {
	manifest, err := l.manifest(ctx, from, root)
	if err != nil {
		return nil, err
	}
	raw, err := readBlob(ctx, from, *manifest.Config, "configuration "+manifest.Config.Digest.String())
	if err != nil {
		return nil, err
	}
	config, err := l.parseConfig(raw, len(manifest.Layers))
	if err != nil {
		return nil, err
	}
	img := &Image{Config: config.Config, Raw: raw}
	for i, d := range manifest.Layers {
		want := layer{name: "layer " + d.Digest.String(), digest: d.Digest, size: d.Size}
		if len(config.RootFS.DiffIDs) > 0 {
			want.diffID = config.RootFS.DiffIDs[i]
		}
		added, err := l.addBlob(ctx, from, d, want)
		if err != nil {
			return nil, err
		}
		img.Layers = append(img.Layers, added)
	}
	return img, nil
}

func (l *loader) addBlob(ctx context.Context, from blobs, d v1.Descriptor, want layer) (string, error) {
	if added, ok := l.added[d.Digest.String()]; ok {
		return added, nil
	}
	r, err := openBlob(ctx, from, d, want.name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	added, err := l.addLayer(ctx, want, r)
	if err == nil {
		l.added[d.Digest.String()] = added
	}
	return added, err
}

// manifest follows indexes from d down to the manifest for the platform that is wanted.
func (l *loader) manifest(ctx context.Context, from blobs, d v1.Descriptor) (*document, error) {
	for range mostNesting {
		doc, err := readDocument(ctx, from, d)
		if err != nil {
			return nil, err
		}
		if doc.Manifests == nil {
			return doc, nil
		}
		if d, err = l.pick(doc.Manifests); err != nil {
			return nil, err
		}
	}
	return nil, corrupt("index "+d.Digest.String(), errors.New("indexes are nested too deep"))
}

func readDocument(ctx context.Context, from blobs, d v1.Descriptor) (*document, error) {
	what := "manifest " + d.Digest.String()
	raw, err := readBlob(ctx, from, d, what)
	if err != nil {
		return nil, err
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, corrupt(what, err)
	}
	switch {
	case doc.SchemaVersion == 1:
		return nil, faultf(snapshot.KindIncompatible, "push the image again with a current tool", "%s is of the old schema 1", what)
	case doc.Manifests != nil && (doc.Config != nil || doc.Layers != nil):
		return nil, corrupt(what, errors.New("it claims to be a manifest and an index at once"))
	case doc.Manifests != nil:
		return &doc, nil
	case doc.ArtifactType == snapshot.ArtifactType:
		return nil, faultf(snapshot.KindInvalid, "import or pull it as a snapshot, and clone that", "it is a snapshot, not an image")
	case doc.Config == nil:
		return nil, corrupt(what, errors.New("it names no configuration"))
	case doc.Config.MediaType != v1.MediaTypeImageConfig && doc.Config.MediaType != dockerConfig:
		return nil, notAnImage("it is an artifact of another kind (%s)", doc.Config.MediaType)
	}
	return &doc, nil
}

// pick chooses from the entries of an index: the one for the wanted platform, else the only one that names none.
func (l *loader) pick(entries []v1.Descriptor) (v1.Descriptor, error) {
	var unknown []v1.Descriptor
	var others []string
	for _, d := range entries {
		switch {
		case d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "":
			unknown = append(unknown, d)
		case l.platform.accepts(platformOf(d.Platform)):
			return d, nil
		case d.Platform.OS != "unknown": // "unknown" are attestations
			others = append(others, platformOf(d.Platform).String())
		}
	}
	switch {
	case len(unknown) == 1 && len(others) == 0:
		return unknown[0], nil // its configuration will tell
	case len(others) > 0:
		return v1.Descriptor{}, l.foreign(others...)
	case len(unknown) > 1:
		return v1.Descriptor{}, notAnImage("its index lists %d images and does not say which is for which platform", len(unknown))
	default:
		return v1.Descriptor{}, notAnImage("its index lists no image")
	}
}

func (l *loader) foreign(there ...string) error {
	slices.Sort(there)
	return faultf(snapshot.KindIncompatible, "use an image that was built for "+l.platform.String(),
		"it is not for %s; it is for %s", l.platform, strings.Join(slices.Compact(there), ", "))
}

// parseConfig reads an image's configuration and compares it with the platform that is wanted and the number of layers.
func (l *loader) parseConfig(raw []byte, layers int) (*v1.Image, error) {
	var config v1.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, corrupt("configuration", err)
	}
	if made := platformOf(&config.Platform); made.os != "" && made.arch != "" && !l.platform.accepts(made) {
		return nil, l.foreign(made.String())
	}
	if n := len(config.RootFS.DiffIDs); n > 0 && n != layers {
		return nil, corrupt("configuration", fmt.Errorf("it lists %d layers, the manifest %d", n, layers))
	}
	if layers == 0 {
		return nil, notAnImage("it has no layers")
	}
	return &config, nil
}

func openBlob(ctx context.Context, from blobs, d v1.Descriptor, what string) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, corrupt(what, err)
	}
	if d.Size < 0 {
		return nil, corrupt(what, errors.New("its size is negative"))
	}
	r, err := from.open(ctx, d)
	if err != nil {
		return nil, named(what, err)
	}
	return r, nil
}

// readBlob reads and verifies a small blob.
func readBlob(ctx context.Context, from blobs, d v1.Descriptor, what string) ([]byte, error) {
	if d.Size > mostMetadata {
		return nil, corrupt(what, fmt.Errorf("it is said to have %d bytes, which is too much", d.Size))
	}
	r, err := openBlob(ctx, from, d, what)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	v, err := newVerifier(r, d.Digest, d.Size)
	if err != nil {
		return nil, corrupt(what, err)
	}
	data, err := io.ReadAll(v)
	if err != nil {
		return nil, named(what, err)
	}
	return data, nil
}

// digestOf returns the digest that a name ends in, such as blobs/sha256/HEX or HEX.json, or "".
func digestOf(name string) digest.Digest {
	name = name[strings.LastIndexByte(name, '/')+1:]
	d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(name, ".json"))
	if d.Validate() != nil {
		return ""
	}
	return d
}

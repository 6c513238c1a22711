// Package image gets root file systems: it turns what a user names (an archive, an image layout, a registry reference)
// into layers in the store and the image's configuration. Nothing reaches the store unverified: digests, the tar
// format and the names in it are checked while the bytes stream by.
package image

import (
	"context"
	"io"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layers takes layers in; the snapshot store is one.
type Layers interface {
	// AddLayer reads r to its end, keeps it, and returns the digest under which it can be found. When r fails,
	// nothing is kept. mediaType is OCI's for a layer that is a tar: plain, or compressed with gzip or zstd.
	AddLayer(ctx context.Context, r io.Reader, mediaType string) (digest string, err error)
}

// Image is an image whose layers are in the store.
type Image struct {
	Ref    string         // what the user gave
	Layers []string       // digests as AddLayer returned them, bottom first, none twice
	Config v1.ImageConfig // how to run it; zero for a bare root file system
	Raw    []byte         // the configuration blob as the image has it; nil for a bare root file system
}

// Options say how to load an image.
type Options struct {
	Insecure bool   // speak plain HTTP to any registry, not only to one on this host
	Platform string // OS/ARCH[/VARIANT], as in "linux/arm64"; empty: that of this host
}

// Load finds out what ref is, adds its layers to the store, bottom first, and returns the image. ref is one of:
//
//	DIR or DIR:TAG       an OCI image layout                           (also oci:DIR[:TAG])
//	FILE or FILE:TAG     a tar with an OCI image layout                (also oci-archive:FILE[:TAG])
//	FILE or FILE:TAG     a tar that docker save wrote                  (also docker-archive:FILE[:TAG])
//	FILE                 a tar of a root file system                   (also tar:FILE)
//	NAME[:TAG][@DIGEST]  an image of a registry, by default Docker Hub (also docker://NAME)
//
// A tar may be compressed with gzip, zstd or, where the program xz is installed, xz. Without a prefix, what lies at
// the path decides, and what is no path is a registry reference.
//
// An error's kind is KindInvalid when ref is none of these, KindIncompatible when the image is for other platforms
// only, KindCorrupt when it is damaged, KindUnreachable when a registry does not answer.
func Load(ctx context.Context, ref string, to Layers, o Options) (*Image, error) {
	p, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	l := &loader{ref: ref, to: to, platform: p, insecure: o.Insecure, added: make(map[string]string)}
	img, err := l.load(ctx)
	if err != nil {
		return nil, l.fail(ctx, err)
	}
	img.Ref = ref
	img.Layers = topmost(img.Layers)
	return img, nil
}

// loader is one Load.
type loader struct {
	ref      string
	to       Layers
	platform platform
	insecure bool
	added    map[string]string // digest in the image -> digest in the store
}

// topmost drops all occurrences of a layer but the highest. What it holds covers everything below anyway, so the file
// system stays the same, and overlayfs refuses to have one directory twice.
func topmost(layers []string) []string {
	var out []string
	for _, d := range slices.Backward(layers) {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	slices.Reverse(out)
	return out
}

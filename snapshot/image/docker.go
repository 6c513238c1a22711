package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

const dockerManifest = "manifest.json"

// dockerImage is one entry of the manifest.json that docker save writes.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// loadDocker loads the image with the tag, or the only one, of a docker archive.
func (l *loader) loadDocker(ctx context.Context, a *archive, tag string) (*Image, error) {
	raw, err := readSmall(a, dockerManifest)
	if err != nil {
		return nil, err
	}
	var images []dockerImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, corrupt(dockerManifest, err)
	}
	chosen, err := chooseDocker(images, tag)
	if err != nil {
		return nil, err
	}
	if raw, err = readSmall(a, chosen.Config); err != nil {
		return nil, err
	}
	if d := digestOf(chosen.Config); d != "" && d != d.Algorithm().FromBytes(raw) {
		return nil, corrupt("configuration "+d.String(), errors.New("its content does not match its digest"))
	}
	config, err := l.parseConfig(raw, len(chosen.Layers))
	if err != nil {
		return nil, err
	}
	img := &Image{Config: config.Config, Raw: raw}
	for i, name := range chosen.Layers {
		want := layer{name: "layer " + name}
		if len(config.RootFS.DiffIDs) > 0 {
			want.diffID = config.RootFS.DiffIDs[i]
		}
		added, err := l.addFile(ctx, a, name, want)
		if err != nil {
			return nil, err
		}
		img.Layers = append(img.Layers, added)
	}
	return img, nil
}

func (l *loader) addFile(ctx context.Context, a *archive, name string, want layer) (string, error) {
	if added, ok := l.added[want.diffID.String()]; ok && want.diffID != "" {
		return added, nil
	}
	r, size, err := a.file(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", corrupt(want.name, errors.New("it is missing"))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", want.name, err)
	}
	defer r.Close()
	if strings.HasPrefix(name, "blobs/") {
		want.digest, want.size = digestOf(name), size
	}
	added, err := l.addLayer(ctx, want, r)
	if err == nil && want.diffID != "" {
		l.added[want.diffID.String()] = added
	}
	return added, err
}

func chooseDocker(images []dockerImage, tag string) (dockerImage, error) {
	var tags []string
	for _, i := range images {
		tags = append(tags, i.RepoTags...)
		if tag != "" && slices.ContainsFunc(i.RepoTags, func(t string) bool { return sameTag(t, tag) }) {
			return i, nil
		}
	}
	switch {
	case tag != "":
		return dockerImage{}, notAnImage("it holds no image with the tag %q%s", tag, listing(tags))
	case len(images) == 1:
		return images[0], nil
	case len(images) == 0:
		return dockerImage{}, notAnImage("its %s lists no image", dockerManifest)
	default:
		return dockerImage{}, notAnImage("it holds several images; add :TAG%s", listing(tags))
	}
}

// sameTag says whether what a user typed after the file's name means the full name of an image: its tag alone, or the
// name without registry, namespace or the tag "latest".
func sameTag(full, typed string) bool {
	for _, t := range []string{typed, typed + ":latest"} {
		if full == t || strings.HasSuffix(full, "/"+t) {
			return true
		}
	}
	return strings.HasSuffix(full, ":"+typed)
}

package image

import (
	"archive/tar"
	"runtime"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// What an archive is does not depend on the order of its entries.
func TestArchivesInAnyOrder(t *testing.T) {
	plain := rootfs(t, "order")
	config := v1.ImageConfig{Cmd: []string{"order"}}
	docker := dockerArchive(t, runtime.GOARCH, config, nil, plain)
	odd := func(files []file) []file {
		return append([]file{{name: "layers/", kind: tar.TypeDir}, {name: "layers/1/", kind: tar.TypeDir}, {name: "etc/", kind: tar.TypeDir}}, files...)
	}
	backwards := func(files []file) []file {
		files = slices.Clone(files)
		slices.Reverse(files)
		return files
	}
	o := layoutFiles{}
	o.finish(t, o.image(t, runtime.GOARCH, config, plainLayer{plain, nil}))
	var layout []file
	for name, data := range o {
		layout = append(layout, file{name: name, body: string(data)})
	}
	slices.SortFunc(layout, func(a, b file) int { return len(b.name) - len(a.name) })
	for name, files := range map[string][]file{
		"docker, layers first":         docker,
		"docker, manifest first":       backwards(docker),
		"docker, odd directory first":  odd(docker),
		"docker, odd directory last":   backwards(odd(docker)),
		"docker, named from the top":   odd(append([]file{{name: "./", kind: tar.TypeDir}}, docker...)),
		"layout, blobs first":          layout,
		"layout, blobs last":           backwards(layout),
		"layout, odd directory first":  odd(layout),
		"layout, odd directory behind": backwards(odd(layout)),
	} {
		t.Run(name, func(t *testing.T) {
			data := tarOf(t, files...)
			for _, path := range []string{write(t, "plain", data), write(t, "packed", gz(t, data))} {
				img, _ := mustLoad(t, path, Options{})
				if !slices.Equal(img.Config.Cmd, config.Cmd) || !slices.Equal(img.Layers, []string{digest.FromBytes(plain).String()}) {
					t.Errorf("%+v has other layers than %s", img, digest.FromBytes(plain))
				}
			}
		})
	}
}

// A root file system may have files that are called like those of images.
func TestRootfsWithAManifest(t *testing.T) {
	for name, files := range map[string][]file{
		"web application": {{name: "app/index.js", body: "x"}, {name: "manifest.json", body: `{"name":"app"}`}},
		"a list":          {{name: "manifest.json", body: `[{"src":"icon.png"}]`}, {name: "app/index.js", body: "x"}},
		"no directories":  {{name: "app", body: "x"}, {name: "index.json", body: "{}"}},
		"a whole one":     {{name: "usr/bin/x", body: "x"}, {name: "etc/x", body: "x"}, {name: "manifest.json", body: `[{"Config":"x"}]`}},
	} {
		data := tarOf(t, files...)
		for _, packed := range [][]byte{data, gz(t, data)} {
			img, _ := mustLoad(t, write(t, "root", packed), Options{})
			if !slices.Equal(img.Layers, []string{digest.FromBytes(packed).String()}) {
				t.Errorf("%s: it has the layers %q", name, img.Layers)
			}
		}
	}
}

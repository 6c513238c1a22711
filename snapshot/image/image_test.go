package image

import (
	"archive/tar"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

const foreignArch = "s390x"

func mustLoad(t *testing.T, ref string, o Options) (*Image, *fakeLayers) {
	t.Helper()
	to := newFake()
	img, err := Load(t.Context(), ref, to, o)
	if err != nil {
		t.Fatalf("Load(%q): %v", ref, err)
	}
	if img.Ref != ref {
		t.Errorf("Ref = %q, want %q", img.Ref, ref)
	}
	for _, d := range img.Layers {
		if _, ok := to.blobs[d]; !ok {
			t.Errorf("layer %s is not in the store", d)
		}
	}
	return img, to
}

// wantError loads ref and compares the error's kind and text. It returns the store, for tests that look inside.
func wantError(t *testing.T, ref string, o Options, kind snapshot.Kind, text string) *fakeLayers {
	t.Helper()
	to := newFake()
	img, err := Load(t.Context(), ref, to, o)
	if err == nil {
		t.Fatalf("Load(%q) = %+v, want an error", ref, img)
	}
	if snapshot.KindOf(err) != kind {
		t.Errorf("kind %s, want %s: %v", snapshot.KindOf(err), kind, err)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q does not say %q", err, text)
	}
	if strings.ContainsRune(err.Error(), '\n') {
		t.Errorf("error %q has several lines", err)
	}
	return to
}

func TestLoadLayout(t *testing.T) {
	config := v1.ImageConfig{Cmd: []string{"/bin/hello"}, Env: []string{"A=b"}, User: "web"}
	lower, upper := rootfs(t, "lower"), rootfs(t, "upper")
	o := layoutFiles{}
	ours := o.image(t, runtime.GOARCH, config, plainLayer{lower, gz}, plainLayer{upper, zst}, plainLayer{lower, gz})
	theirs := o.image(t, foreignArch, v1.ImageConfig{}, plainLayer{rootfs(t, "foreign"), nil})
	other := o.image(t, runtime.GOARCH, v1.ImageConfig{Cmd: []string{"other"}}, plainLayer{upper, nil})
	attestation := o.put(v1.MediaTypeImageManifest, []byte("{}"))
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	index := o.index(t, attestation, theirs, ours)
	o.finish(t, tagged(index, "both"), tagged(other, "example.org/app:2"))
	dir, archive := o.asDir(t), write(t, "archive", o.asTar(t))
	packed := write(t, "archive.gz", gz(t, o.asTar(t)))

	wantLayers := []string{digest.FromBytes(zst(t, upper)).String(), digest.FromBytes(gz(t, lower)).String()} // the topmost of two
	for _, ref := range []string{dir + ":both", "oci:" + dir + ":both", archive + ":both", "oci-archive:" + archive + ":both", packed + ":both"} {
		img, to := mustLoad(t, ref, Options{})
		if diff := cmp.Diff(wantLayers, img.Layers); diff != "" {
			t.Errorf("%s: layers (-want +got):\n%s", ref, diff)
		}
		if diff := cmp.Diff(config, img.Config); diff != "" {
			t.Errorf("%s: config (-want +got):\n%s", ref, diff)
		}
		if len(img.Raw) == 0 || digest.FromBytes(img.Raw) == "" || !strings.Contains(string(img.Raw), "diff_ids") {
			t.Errorf("%s: Raw = %q", ref, img.Raw)
		}
		if to.types[wantLayers[0]] != v1.MediaTypeImageLayerZstd || to.types[wantLayers[1]] != v1.MediaTypeImageLayerGzip {
			t.Errorf("%s: media types %v", ref, to.types)
		}
	}
	for _, tag := range []string{"2", "app:2", "example.org/app:2", other.Digest.String()} {
		if img, _ := mustLoad(t, dir+":"+tag, Options{}); !slices.Equal(img.Config.Cmd, []string{"other"}) {
			t.Errorf("tag %s chose %v", tag, img.Config.Cmd)
		}
	}
	if img, _ := mustLoad(t, dir+":both", Options{Platform: "linux/" + foreignArch}); len(img.Layers) != 1 {
		t.Errorf("the foreign image has layers %v", img.Layers)
	}
	wantError(t, dir, Options{}, snapshot.KindInvalid, "several images; add :TAG (there are: both, example.org/app:2)")
	wantError(t, dir+":none", Options{}, snapshot.KindInvalid, `no image with the tag "none" (there are: both`)
	wantError(t, dir+":both", Options{Platform: "linux/ppc64le"}, snapshot.KindIncompatible,
		"not for linux/ppc64le; it is for linux/"+runtime.GOARCH+", linux/"+foreignArch)
	wantError(t, dir+":2", Options{Platform: "ppc64le"}, snapshot.KindIncompatible, "not for linux/ppc64le; it is for linux/"+runtime.GOARCH)
	wantError(t, dir+":both", Options{Platform: "a/b/c/d"}, snapshot.KindInvalid, "not OS/ARCH")
}

func TestLayoutIndexListsPlatforms(t *testing.T) {
	o := layoutFiles{}
	ours := o.image(t, runtime.GOARCH, v1.ImageConfig{Cmd: []string{"ours"}}, plainLayer{rootfs(t, "a"), gz})
	theirs := o.image(t, foreignArch, v1.ImageConfig{Cmd: []string{"theirs"}}, plainLayer{rootfs(t, "b"), gz})
	for name, entries := range map[string][]v1.Descriptor{
		"untagged": {theirs, ours},
		"one tag":  {tagged(theirs, "x"), tagged(ours, "x")},
	} {
		o.finish(t, entries...)
		dir := o.asDir(t)
		for _, ref := range []string{dir, dir + ":x"} {
			if name == "untagged" && ref != dir {
				continue
			}
			if img, _ := mustLoad(t, ref, Options{}); img.Config.Cmd[0] != "ours" {
				t.Errorf("%s: chose %v", name, img.Config.Cmd)
			}
		}
	}
}

func TestLoadDockerArchive(t *testing.T) {
	config := v1.ImageConfig{Entrypoint: []string{"/entry"}, WorkingDir: "/srv"}
	a, b := rootfs(t, "a"), rootfs(t, "b")
	files := dockerArchive(t, runtime.GOARCH, config, []string{"example.org/x/web:latest"}, a, b)
	data := tarOf(t, files...)
	path := write(t, "saved", data)
	want := []string{digest.FromBytes(a).String(), digest.FromBytes(b).String()}
	for _, ref := range []string{path, "docker-archive:" + path, path + ":latest", path + ":web", path + ":x/web:latest",
		write(t, "saved.tar.gz", gz(t, data)), write(t, "saved.tar.zst", zst(t, data))} {
		img, _ := mustLoad(t, ref, Options{})
		if diff := cmp.Diff(want, img.Layers); diff != "" {
			t.Errorf("%s: layers (-want +got):\n%s", ref, diff)
		}
		if diff := cmp.Diff(config, img.Config); diff != "" {
			t.Errorf("%s: config (-want +got):\n%s", ref, diff)
		}
	}
	wantError(t, path+":web2", Options{}, snapshot.KindInvalid, `no image with the tag "web2" (there are: example.org/x/web:latest)`)
	wantError(t, "oci-archive:"+path, Options{}, snapshot.KindInvalid, "not an oci-archive")
	wantError(t, path, Options{Platform: foreignArch}, snapshot.KindIncompatible, "it is for linux/"+runtime.GOARCH)

	t.Run("links", func(t *testing.T) {
		linked := slices.Clone(files)
		for i := range linked {
			if strings.HasPrefix(linked[i].name, digest.FromBytes(b).Encoded()) && linked[i].body != "" {
				linked = append(linked, file{name: "real/layer.tar", body: linked[i].body})
				linked[i] = file{name: linked[i].name, link: "../real/layer.tar", kind: tar.TypeSymlink}
			}
		}
		if img, _ := mustLoad(t, "docker-archive:"+write(t, "linked", tarOf(t, linked...)), Options{}); !slices.Equal(img.Layers, want) {
			t.Errorf("layers %v, want %v", img.Layers, want)
		}
	})
	t.Run("damage", func(t *testing.T) {
		layer := slices.IndexFunc(files, func(f file) bool { return strings.HasSuffix(f.name, "/layer.tar") })
		missing := slices.Delete(slices.Clone(files), layer, layer+1)
		wantError(t, write(t, "missing", tarOf(t, missing...)), Options{}, snapshot.KindCorrupt, files[layer].name+": it is missing")
		changed := slices.Clone(files)
		changed[layer].body = string(rootfs(t, "changed"))
		wantError(t, write(t, "changed", tarOf(t, changed...)), Options{}, snapshot.KindCorrupt, files[layer].name+": its content does not match")
		wantError(t, write(t, "short", data[:len(data)/2]), Options{}, snapshot.KindCorrupt, "truncated")
		config := slices.IndexFunc(files, func(f file) bool { return len(f.name) == 64+5 })
		edited := slices.Clone(files)
		edited[config].body = strings.Replace(edited[config].body, "/entry", "/other", 1)
		wantError(t, write(t, "edited", tarOf(t, edited...)), Options{}, snapshot.KindCorrupt, "configuration sha256:")
		circle := append(slices.Delete(slices.Clone(files), layer, layer+1), file{name: files[layer].name, link: "layer.tar", kind: tar.TypeSymlink})
		wantError(t, write(t, "circle", tarOf(t, circle...)), Options{}, snapshot.KindFailed, "link in a circle")
	})
}

func TestLoadRootfsTar(t *testing.T) {
	plain := rootfs(t, "root")
	for name, data := range map[string][]byte{"root.tar": plain, "root.tgz": gz(t, plain), "no-extension": zst(t, plain)} {
		path := write(t, name, data)
		for _, ref := range []string{path, "tar:" + path} {
			img, to := mustLoad(t, ref, Options{})
			if len(img.Layers) != 1 || string(to.blobs[img.Layers[0]]) != string(data) || img.Raw != nil {
				t.Errorf("%s: %v, raw %q", ref, img.Layers, img.Raw)
			}
		}
	}
	// What looks like an image but is asked for as a root file system is one.
	image := tarOf(t, dockerArchive(t, runtime.GOARCH, v1.ImageConfig{}, nil, plain)...)
	if img, _ := mustLoad(t, "tar:"+write(t, "image", image), Options{}); img.Layers[0] != digest.FromBytes(image).String() {
		t.Errorf("layers %v", img.Layers)
	}
	noise := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	plain = tarOf(t, file{name: "etc/noise", body: string(noise)})
	for name, cut := range map[string][]byte{
		"cut.tar":     plain[:len(plain)/3],
		"cut.tar.gz":  gz(t, plain)[:len(gz(t, plain))-9],
		"cut.tar.zst": zst(t, plain)[:len(zst(t, plain))-9],
	} {
		to := wantError(t, write(t, name, cut), Options{}, snapshot.KindCorrupt, "truncated")
		if len(to.blobs) != 0 {
			t.Errorf("%s was stored", name)
		}
	}
}

func TestLoadXZ(t *testing.T) {
	plain := rootfs(t, "xz")
	path := write(t, "root.tar", plain)
	if out, err := exec.CommandContext(t.Context(), "xz", "-k", path).CombinedOutput(); err != nil {
		t.Fatalf("xz: %v %s", err, out)
	}
	img, to := mustLoad(t, path+".xz", Options{})
	if d := img.Layers[0]; d != digest.FromBytes(plain).String() || to.types[d] != v1.MediaTypeImageLayer {
		t.Errorf("layer %s as %s", d, to.types[d])
	}
	data, err := os.ReadFile(path + ".xz")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "tar:"+write(t, "cut.xz", data[:len(data)-20]), Options{}, snapshot.KindCorrupt, "xz")
	t.Setenv("PATH", t.TempDir())
	wantError(t, path+".xz", Options{}, snapshot.KindUnsupported, "xz")
}

func TestSpoolLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	data := gz(t, tarOf(t, dockerArchive(t, runtime.GOARCH, v1.ImageConfig{}, nil, rootfs(t, "x"))...))
	mustLoad(t, write(t, "saved", data), Options{})
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestTopmost(t *testing.T) {
	if got := topmost([]string{"a", "b", "a", "c", "b"}); !slices.Equal(got, []string{"a", "c", "b"}) {
		t.Errorf("got %v", got)
	}
}

package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	digest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestHostileNames(t *testing.T) {
	for name, hostile := range map[string]file{
		"dotdot":            {name: "../evil", body: "x"},
		"dotdot inside":     {name: "a/../../evil", body: "x"},
		"absolute":          {name: "/etc/passwd", body: "x"},
		"hard link out":     {name: "shadow", link: "../../etc/shadow", kind: tar.TypeLink},
		"hard link to root": {name: "shadow", link: "/etc/shadow", kind: tar.TypeLink},
	} {
		t.Run(name, func(t *testing.T) {
			inner := tarOf(t, file{name: "usr/bin/x", body: "y"}, hostile)
			to := wantError(t, write(t, "root.tar", inner), Options{}, snapshot.KindInvalid, "leads out of the root file system")
			if len(to.blobs) != 0 {
				t.Error("the store was given the hostile layer")
			}
			wantError(t, write(t, "root.tar.gz", gz(t, inner)), Options{}, snapshot.KindInvalid, "leads out")
			wantError(t, write(t, "saved.tar", tarOf(t, dockerArchive(t, runtime.GOARCH, v1.ImageConfig{}, nil, inner)...)), Options{},
				snapshot.KindInvalid, "leads out of the root file system")
			if hostile.kind == 0 {
				outer := append(dockerArchive(t, runtime.GOARCH, v1.ImageConfig{}, nil, rootfs(t, "x")), hostile)
				wantError(t, write(t, "outer.tar", tarOf(t, outer...)), Options{}, snapshot.KindInvalid, "leads out of it")
			}
		})
	}
}

func TestDamagedLayout(t *testing.T) {
	make := func() (layoutFiles, string) {
		o := layoutFiles{}
		d := o.image(t, runtime.GOARCH, v1.ImageConfig{}, plainLayer{rootfs(t, "x"), gz})
		o.finish(t, d)
		return o, "blobs/sha256/" + digest.FromBytes(gz(t, rootfs(t, "x"))).Encoded()
	}
	blob := digest.FromBytes(gz(t, rootfs(t, "x"))).String()
	for name, damage := range map[string]struct {
		do   func(o layoutFiles, layer string)
		text string
	}{
		"missing layer":   {func(o layoutFiles, layer string) { delete(o, layer) }, blob + ": it is missing"},
		"truncated layer": {func(o layoutFiles, layer string) { o[layer] = o[layer][:50] }, blob + ": it has 50 bytes"},
		"flipped bit": {func(o layoutFiles, layer string) {
			o[layer] = slices.Clone(o[layer])
			o[layer][len(o[layer])-1] ^= 1
		}, blob},
		"other layer": {func(o layoutFiles, layer string) { o[layer] = gz(t, rootfs(t, "y")) }, blob + ": its content does not match its digest"},
		"bad index":   {func(o layoutFiles, _ string) { o["index.json"] = []byte("{") }, "index.json"},
		"no index":    {func(o layoutFiles, _ string) { delete(o, "index.json") }, "index.json: it is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			o, layer := make()
			damage.do(o, layer)
			for _, ref := range []string{o.asDir(t), write(t, "archive.tar", o.asTar(t))} {
				if to := wantError(t, ref, Options{}, snapshot.KindCorrupt, damage.text); len(to.blobs) != 0 {
					t.Error("the store was given a damaged layer")
				}
			}
		})
	}
	t.Run("lying configuration", func(t *testing.T) {
		o := layoutFiles{}
		d := o.image(t, runtime.GOARCH, v1.ImageConfig{}, plainLayer{rootfs(t, "x"), func(t *testing.T, _ []byte) []byte { return gz(t, rootfs(t, "y")) }})
		o.finish(t, d)
		wantError(t, o.asDir(t), Options{}, snapshot.KindCorrupt, "does not match the digest in the image's configuration")
	})
	t.Run("blob outside", func(t *testing.T) {
		o, layer := make()
		dir := o.asDir(t)
		outside := write(t, "outside", o[layer])
		if err := errors.Join(os.Remove(filepath.Join(dir, layer)), os.Symlink(outside, filepath.Join(dir, layer))); err != nil {
			t.Fatal(err)
		}
		wantError(t, dir, Options{}, snapshot.KindFailed, "escapes")
	})
}

func TestNotAnImage(t *testing.T) {
	o := layoutFiles{}
	config := o.put("application/vnd.example.chart", []byte("{}"))
	artifact := o.put(v1.MediaTypeImageManifest, marshal(t, v1.Manifest{Config: config}))
	o.finish(t, artifact)
	own := layoutFiles{}
	own.finish(t, own.put(v1.MediaTypeImageManifest, marshal(t, v1.Manifest{ArtifactType: snapshot.ArtifactType, Config: config})))
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ref  string
		kind snapshot.Kind
		text string
		hint string
	}{
		{write(t, "note", []byte("hello\n")), snapshot.KindInvalid, "not a tar", forms},
		{write(t, "note.gz", gz(t, []byte("hello\n"))), snapshot.KindInvalid, "not a tar", forms},
		{write(t, "empty", nil), snapshot.KindInvalid, "empty", forms},
		{write(t, "empty.tar", tarOf(t)), snapshot.KindInvalid, "empty", forms},
		{fifo, snapshot.KindInvalid, "not a regular file", forms},
		{root, snapshot.KindInvalid, "not an OCI image layout", "for the directory of a root file system use --rootfs " + root},
		{o.asDir(t), snapshot.KindInvalid, "application/vnd.example.chart", forms},
		{own.asDir(t), snapshot.KindInvalid, "it is a snapshot", "import or pull it as a snapshot, and clone that"},
		{"/no/such/file", snapshot.KindNotFound, "no such file", forms},
		{"./no-such-file:tag", snapshot.KindNotFound, "no such file", forms},
		{"missing.tar.gz", snapshot.KindNotFound, "no such file", forms},
		{"oci:missing", snapshot.KindNotFound, "no such file", forms},
		{"Not A Reference", snapshot.KindInvalid, "no registry reference", forms},
		{"", snapshot.KindInvalid, "empty", forms},
		{"docker://UPPER", snapshot.KindInvalid, "no registry reference", forms},
	} {
		wantError(t, c.ref, Options{}, c.kind, c.text)
		if _, err := Load(t.Context(), c.ref, newFake(), Options{}); snapshot.HintOf(err) != c.hint {
			t.Errorf("%q: hint %q, want %q", c.ref, snapshot.HintOf(err), c.hint)
		}
	}
}

func TestStoreFailure(t *testing.T) {
	path := write(t, "root.tar", rootfs(t, "x"))
	full := &fakeLayers{fail: &os.PathError{Op: "write", Path: "blob", Err: syscall.ENOSPC}}
	if _, err := Load(t.Context(), path, full, Options{}); snapshot.KindOf(err) != snapshot.KindNoSpace {
		t.Errorf("a full disk gives %v", err)
	}
	vanished := &fakeLayers{fail: &os.PathError{Op: "open", Path: "blobs", Err: syscall.ENOENT}}
	if _, err := Load(t.Context(), path, vanished, Options{}); snapshot.KindOf(err) != snapshot.KindFailed || !strings.Contains(err.Error(), "store archive") {
		t.Errorf("a store that is gone gives %v", err)
	}
	broken := write(t, "broken.tar", rootfs(t, "x")[:1500])
	if _, err := Load(t.Context(), broken, &fakeLayers{lazy: true}, Options{}); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("a store that does not read hides damage: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Load(ctx, path, newFake(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled load gives %v", err)
	}
}

// FuzzLoadFile feeds arbitrary files: whatever they hold, Load ends with an image or with an error that has a hint or
// a cause, and everything it stores is a sound tar.
func FuzzLoadFile(f *testing.F) {
	t := &testing.T{}
	o := layoutFiles{}
	d := o.image(t, runtime.GOARCH, v1.ImageConfig{}, plainLayer{rootfs(t, "x"), gz})
	o.finish(t, d)
	f.Add(o.asTar(t))
	f.Add(tarOf(t, dockerArchive(t, runtime.GOARCH, v1.ImageConfig{}, []string{"a:b"}, rootfs(t, "x"))...))
	f.Add(gz(t, rootfs(t, "x")))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		to := newFake()
		if _, err := Load(t.Context(), path, to, Options{}); err != nil {
			return
		}
		for d, blob := range to.blobs {
			format := tarball.Plain
			switch to.types[d] {
			case v1.MediaTypeImageLayerGzip:
				format = tarball.Gzip
			case v1.MediaTypeImageLayerZstd:
				format = tarball.Zstd
			}
			if err := inspectTar(t.Context(), strings.NewReader(string(blob)), format, ""); err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("stored a layer that is unsound: %v", err)
			}
		}
	})
}

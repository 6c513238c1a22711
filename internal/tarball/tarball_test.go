package tarball_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/snapd-ctr/snapd-ctr/internal/tarball"
)

func TestCheckName(t *testing.T) {
	for name, harmless := range map[string]bool{
		"a": true, "a/b": true, "./": true, ".": true, "..a/b..": true, "a//b": true,
		"": false, "/": false, "/a": false, "..": false, "../a": false, "a/../b": false, "a/..": false,
	} {
		if err := tarball.CheckName(name); (err == nil) != harmless {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOpen(t *testing.T) {
	const text = "some plain text"
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err := io.WriteString(w, text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	frame := e.EncodeAll([]byte(text), nil)
	skippable := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'x', 'y'}, frame...)
	for name, c := range map[string]struct {
		stream []byte
		want   tarball.Compression
		text   string
	}{
		"plain": {[]byte(text), tarball.Plain, text}, "empty": {nil, tarball.Plain, ""}, "short": {[]byte{0x1f}, tarball.Plain, "\x1f"},
		"gzip": {z.Bytes(), tarball.Gzip, text}, "zstd": {frame, tarball.Zstd, text}, "skippable": {skippable, tarball.Zstd, text},
	} {
		t.Run(name, func(t *testing.T) {
			b := bufio.NewReader(bytes.NewReader(c.stream))
			got, err := tarball.Sniff(b)
			if err != nil || got != c.want {
				t.Fatalf("it is %d: %v", got, err)
			}
			r, err := got.Open(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if content, err := io.ReadAll(r); err != nil || string(content) != c.text {
				t.Errorf("it holds %q: %v", content, err)
			}
		})
	}
}

func TestXZWithoutItsProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := tarball.XZ.Open(t.Context(), strings.NewReader("")); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestDamage(t *testing.T) {
	_, err := tarball.Gzip.Open(t.Context(), strings.NewReader("\x1f\x8b\x08"))
	if _, ok := errors.AsType[*tarball.DamageError](err); !ok {
		t.Errorf("%v is no damage", err)
	}
}

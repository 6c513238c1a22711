package store_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// bounded keeps what is written to it, up to a size that nothing without its zeros has.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > 16<<20 {
		return 0, errors.New("the holes are written")
	}
	return b.Buffer.Write(p)
}

// holey makes a file of size bytes that is a hole but for what parts says.
func holey(t testing.TB, path string, size int64, parts map[int64]string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for at, content := range parts {
		_, err := f.WriteAt([]byte(content), at)
		must(t, err)
	}
	must(t, f.Truncate(size))
	var st syscall.Stat_t
	must(t, syscall.Fstat(int(f.Fd()), &st))
	if st.Blocks*512 > size/2 {
		t.Fatalf("the file system of %s has no holes", path)
	}
}

// sameFile fails the test when b has not the content, the mode and the time of a, or takes more than 1 MiB more.
func sameFile(t testing.TB, a, b string) {
	t.Helper()
	var x, y syscall.Stat_t
	must(t, syscall.Lstat(a, &x), syscall.Lstat(b, &y))
	if x.Size != y.Size || x.Mode != y.Mode || x.Mtim != y.Mtim {
		t.Errorf("%s has size %d, mode %o and time %v, and not %d, %o and %v", b, y.Size, y.Mode, y.Mtim, x.Size, x.Mode, x.Mtim)
	}
	if y.Blocks > x.Blocks+2048 {
		t.Errorf("%s takes %d blocks where %d were enough", b, y.Blocks, x.Blocks)
	}
	if sum(t, a) != sum(t, b) {
		t.Errorf("%s has another content than %s", b, a)
	}
}

func sum(t testing.TB, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	must(t, err)
	return [sha256.Size]byte(h.Sum(nil))
}

func TestSparseFiles(t *testing.T) {
	upper := t.TempDir()
	long := strings.Repeat("ü", 60) + "/" + strings.Repeat("n", 120)
	const size = 128<<20 + 5
	for name, parts := range map[string]map[int64]string{
		"a/begin":  {0: "first"},
		"a/middle": {1 << 20: pages(1, 3), 100<<20 + 77: "odd"},
		"a/end":    {size - 5: "z\x00end"},
		"a/empty":  nil,
		long:       {64 << 20: "deep"},
		"a/plain":  {0: strings.Repeat("x", size%(1<<20)+1<<20)},
	} {
		n := int64(size)
		if name == "a/plain" {
			n = int64(4 << 20)
		}
		holey(t, filepath.Join(upper, name), n, parts)
	}
	special := filepath.Join(upper, "a/middle")
	stamp := time.Date(2020, 2, 3, 4, 5, 6, 789000000, time.UTC)
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	must(t, os.Chown(special, 70000, 3<<21), os.Chmod(special, 0o4751|os.ModeSetuid), sys.SetXattr(special, "user.note", []byte("a\nb=c")),
		sys.SetXattr(special, "security.capability", capability), os.Link(special, filepath.Join(upper, "a/twin")), os.Chtimes(special, stamp, stamp))
	write(t, filepath.Join(upper, "z/after"), "what comes after")

	var layer bounded
	must(t, store.WriteLayer(t.Context(), &layer, upper))
	check := func(t *testing.T, dir string) {
		for _, name := range []string{"a/begin", "a/middle", "a/end", "a/empty", "a/plain", long, "z/after"} {
			sameFile(t, filepath.Join(upper, name), filepath.Join(dir, name))
		}
		var x, y syscall.Stat_t
		must(t, syscall.Lstat(filepath.Join(dir, "a/middle"), &x), syscall.Lstat(filepath.Join(dir, "a/twin"), &y))
		if x.Ino != y.Ino || x.Uid != 70000 || x.Gid != 3<<21 {
			t.Errorf("its twin is %d and it %d, of %d:%d", y.Ino, x.Ino, x.Uid, x.Gid)
		}
	}
	t.Run("unpacked", func(t *testing.T) {
		dir, err := applied(t, layer.Bytes())
		must(t, err)
		check(t, dir)
		attrs, err := sys.Xattrs(filepath.Join(dir, "a/middle"))
		must(t, err)
		if string(attrs["user.note"]) != "a\nb=c" || !bytes.Equal(attrs["security.capability"], capability) {
			t.Errorf("its attributes are %q", attrs)
		}
		var again bounded
		must(t, store.WriteLayer(t.Context(), &again, dir))
		if a, b := listing(t, layer.Bytes()), listing(t, again.Bytes()); len(a) != len(b) || again.Len() != layer.Len() {
			t.Errorf("the same layer once more has %d entries in %d bytes, not %d in %d", len(b), again.Len(), len(a), layer.Len())
		}
	})
	t.Run("tar", func(t *testing.T) { // what another program makes of it
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "tar", "--xattrs", "-xpf", "-", "-C", dir)
		cmd.Stdin = bytes.NewReader(layer.Bytes())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		check(t, dir)
	})
}

// Sparse files of other programs are unpacked whichever way they write them, and holes of any size cost nothing.
func TestSparseFilesOfGNUTar(t *testing.T) {
	from := t.TempDir()
	names := []string{"a-first", "b-sparse", "c-large", "d-last"}
	write(t, filepath.Join(from, names[0]), pages(1, 3)+"odd")
	holey(t, filepath.Join(from, names[1]), 3<<20+7, map[int64]string{1 << 20: pages(2, 2) + "x", 3 << 20: "end"})
	holey(t, filepath.Join(from, names[2]), 1<<40, map[int64]string{1 << 39: "far out"})
	write(t, filepath.Join(from, names[3]), "behind")
	for _, version := range []string{"0.0", "0.1", "1.0"} {
		args := append([]string{"-cf", "-", "--format=posix", "-S", "--sparse-version=" + version, "-C", from}, names...)
		archive, err := exec.CommandContext(t.Context(), "tar", args...).Output()
		must(t, err)
		dir, err := applied(t, archive)
		if err != nil {
			t.Errorf("version %s: %v", version, err)
			continue
		}
		for _, name := range []string{names[0], names[1], names[3]} {
			sameFile(t, filepath.Join(from, name), filepath.Join(dir, name))
		}
		large, err := os.Open(filepath.Join(dir, names[2]))
		must(t, err)
		b := make([]byte, 8)
		_, err = large.ReadAt(b, 1<<39)
		st, failed := large.Stat()
		must(t, err, failed, large.Close())
		if string(b) != "far out\x00" || st.Size() != 1<<40 || st.Sys().(*syscall.Stat_t).Blocks > 2048 {
			t.Errorf("version %s: %q in %d bytes", version, b, st.Size())
		}
		for _, n := range []int{len(archive) / 3, len(archive) / 2} {
			_, err := applied(t, archive[:n])
			wantKind(t, err, snapshot.KindCorrupt)
		}
	}
}

func TestSparseContent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "one")
	holey(t, file, 1<<30, map[int64]string{1 << 20: "content"})
	var b bounded
	must(t, store.WriteFile(t.Context(), &b, file))
	tr := tar.NewReader(&b)
	h, err := tr.Next()
	must(t, err)
	at, err := io.CopyN(io.Discard, tr, 1<<20)
	must(t, err)
	content := make([]byte, 8)
	_, err = io.ReadFull(tr, content)
	must(t, err)
	if h.Name != "one" || h.Size != 1<<30 || string(content) != "content\x00" {
		t.Errorf("%s of %d bytes holds %q at %d", h.Name, h.Size, content, at)
	}
}

// Check compares sparse files without being misled by where their holes are.
func TestCheckOfSparseFiles(t *testing.T) {
	s := openDamaged(t)
	upper := t.TempDir()
	holey(t, filepath.Join(upper, "file"), 128<<20, map[int64]string{1 << 20: "content"})
	var b bounded
	must(t, store.WriteLayer(t.Context(), &b, upper))
	d, err := s.AddLayer(t.Context(), &b, "")
	must(t, err)
	dirs, err := s.LayerDirs(t.Context(), snapshot.Base{Layers: []string{d}})
	must(t, err)
	f, err := os.OpenFile(filepath.Join(dirs[0], "file"), os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 10000), 5<<20+1) // fills holes, changes nothing
	must(t, err)
	clean(t, s.Dir())
	_, err = f.WriteAt([]byte("x"), 100<<20)
	must(t, err)
	problems, err := s.Check(t.Context(), false)
	must(t, err)
	if len(problems) != 1 || problems[0].Where != "layers/"+d[7:] {
		t.Errorf("check says %+v", problems)
	}
}

// canceller ends a context once something has been written, and notes how much more comes.
type canceller struct {
	cancel context.CancelFunc
	after  int
}

func (c *canceller) Write(p []byte) (int, error) {
	c.after += len(p)
	if c.after > 1<<20 {
		c.cancel()
	}
	return len(p), nil
}

func TestWritingLayersCanBeCancelled(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "big"), pages(1, 16<<10))
	for name, write := range map[string]func(context.Context, io.Writer, string) error{
		"layer": store.WriteLayer, "tree": store.WriteTree,
		"file": func(ctx context.Context, w io.Writer, dir string) error {
			return store.WriteFile(ctx, w, filepath.Join(dir, "big"))
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		c := &canceller{cancel: cancel}
		if err := write(ctx, c, dir); !errors.Is(err, context.Canceled) || c.after > 2<<20 {
			t.Errorf("%s: %v after %d bytes", name, err, c.after)
		}
		cancel()
		if err := write(ctx, io.Discard, dir); !errors.Is(err, context.Canceled) {
			t.Errorf("%s of an ended context: %v", name, err)
		}
	}
}

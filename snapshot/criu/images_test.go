package criu

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func mustOpen(t testing.TB, dir string) *Images {
	t.Helper()
	im, err := Open(dir)
	ok(t, err)
	return im
}

func TestViews(t *testing.T) {
	v := newVictim(t, "network", 8)
	v.dump(t.Context())
	im := mustOpen(t, v.images)

	processes, err := im.Processes()
	ok(t, err)
	want := []snapshot.Process{{Pid: 1, Comm: "victim", Threads: 2}, {Pid: 2, PPid: 1, Comm: "victim", Threads: 1}}
	if d := cmp.Diff(want, processes, cmpopts.IgnoreFields(snapshot.Process{}, "Bytes")); d != "" {
		t.Error(d)
	}
	if b := processes[0].Bytes; b < 4<<20 || b > 16<<20 {
		t.Errorf("%d bytes", b)
	}

	local := func(proto, ip string, port uint16) snapshot.Listener {
		return snapshot.Listener{Proto: proto, Address: netip.MustParseAddr(ip), Port: port}
	}
	byPort := cmpopts.SortSlices(func(a, b snapshot.Listener) bool { return a.Port < b.Port })
	equateAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	listeners, err := im.Listeners()
	ok(t, err)
	if d := cmp.Diff([]snapshot.Listener{local("udp", "0.0.0.0", 5353), local("tcp", "127.0.0.1", 8081),
		local("tcp", "10.9.8.7", 8082), local("tcp", "::", 8086), local("tcp", "0.0.0.0", 8080)}, listeners, byPort, equateAddr); d != "" {
		t.Error(d)
	}
	bound, err := im.Bound()
	ok(t, err)
	if d := cmp.Diff([]snapshot.Listener{local("tcp", "10.9.8.7", 8082)}, bound, byPort, equateAddr); d != "" {
		t.Error(d)
	}
	if n, err := im.ClosedTCP(); n != 2 || err != nil {
		t.Errorf("%d closed connections, %v", n, err)
	}

	views, err := im.View()
	ok(t, err)
	if d := cmp.Diff([]string{filepath.Join(v.root, "victim"), v.root, "network", "8"}, views[0].Args); d != "" {
		t.Error(d)
	}
	kinds := make(map[string]int64)
	var names []string
	for _, m := range views[0].Mappings {
		kinds[m.Kind] += m.Present
		names = append(names, m.Name)
	}
	for _, kind := range []string{"anon", "heap", "stack", "file", "shared", "memfd"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s memory among %v", kind, kinds)
		}
	}
	if !strings.Contains(strings.Join(names, " "), "/victim") {
		t.Errorf("no mapping of the program among %q", names)
	}
	var files []string
	for _, f := range views[0].Files {
		files = append(files, f.Kind+" "+f.Name)
	}
	for _, f := range []string{"tcp 0.0.0.0:8080 (listening)", "epoll ", "udp 0.0.0.0:5353", "memfd "} {
		if !strings.Contains(strings.Join(files, "\n"), f) {
			t.Errorf("no %q among %q", f, files)
		}
	}
}

func TestElideZeros(t *testing.T) {
	v := newVictim(t, "", 16)
	before := v.sums(v.pid)
	v.dump(t.Context())
	v.end()
	full := t.TempDir()
	ok(t, exec.Command("cp", "-a", v.images+"/.", full).Run())

	m, err := ElideZeros(v.images)
	ok(t, err)
	// A fifth of the pages of the large area was touched and left zero, in two processes, and three quarters of the
	// memfd.
	if m.ZeroPages < 16<<20/pageSize/5 || m.Bytes != (m.Pages-m.ZeroPages)*pageSize {
		t.Errorf("%+v", m)
	}
	if got := sizeOf(t, v.images, "pages-*.img"); got != m.Bytes {
		t.Errorf("%d bytes of pages, want %d", got, m.Bytes)
	}
	if got := sizeOf(t, full, "pages-*.img"); got != m.Pages*pageSize {
		t.Errorf("there were %d bytes of pages, and %d pages are reported", got, m.Pages)
	}
	again, err := ElideZeros(v.images)
	if err != nil || again.ZeroPages != 0 || again.Bytes != m.Bytes {
		t.Errorf("again: %+v, %v", again, err)
	}

	shared, onlyThin, onlyFull, differ, err := ComparePages(mustOpen(t, v.images), mustOpen(t, full))
	ok(t, err)
	if shared == 0 || onlyThin != 0 || onlyFull == 0 || onlyFull > m.ZeroPages || differ != 0 {
		t.Errorf("compared: %d shared, %d only thin, %d only full, %d differ", shared, onlyThin, onlyFull, differ)
	}

	r := mustRestore(t, v, v.restoreOptions())
	if got := v.sums(r.Pid); got != before {
		t.Errorf("memory is %s, was %s", got, before)
	}
}

func sizeOf(t *testing.T, dir, pattern string) int64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	ok(t, err)
	var n int64
	for _, name := range names {
		fi, err := os.Stat(name)
		ok(t, err)
		n += fi.Size()
	}
	return n
}

func TestComparePagesOfTwoDumps(t *testing.T) {
	v := newVictim(t, "", 4)
	v.dump(t.Context())
	first := mustOpen(t, v.images)
	v.images = t.TempDir()
	v.sums(v.pid) // runs code, so changes a page or two
	v.dump(t.Context())
	shared, onlyA, onlyB, differ, err := ComparePages(first, mustOpen(t, v.images))
	ok(t, err)
	if shared < 1000 || differ == 0 || differ > 100 || onlyA > 100 || onlyB > 100 {
		t.Errorf("%d shared, %d and %d alone, %d differ", shared, onlyA, onlyB, differ)
	}
}

func TestDamagedImages(t *testing.T) {
	v := newVictim(t, "", 1)
	v.dump(t.Context())
	names, err := filepath.Glob(filepath.Join(v.images, "*.img"))
	ok(t, err)
	if _, err := Open(t.TempDir()); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("empty directory: %v", err)
	}
	for _, name := range names {
		base := filepath.Base(name)
		matters := false
		for _, p := range []string{"inventory", "pstree", "core-1", "mm-", "files", "fdinfo", "pagemap-1", "pagemap-2", "pages-1", "pages-2", "ids-"} {
			matters = matters || strings.HasPrefix(base, p)
		}
		if !matters {
			continue
		}
		content, err := os.ReadFile(name)
		ok(t, err)
		ok(t, os.WriteFile(name, content[:len(content)-1], 0o600))
		if err := useAll(v.images); snapshot.KindOf(err) != snapshot.KindCorrupt {
			t.Errorf("%s cut short: %v", base, err)
		}
		ok(t, os.WriteFile(name, content, 0o600))
	}
	ok(t, useAll(v.images))
}

// useAll reads everything that there is to read.
func useAll(dir string) error {
	im, err := Open(dir)
	if err != nil {
		return err
	}
	if _, err := im.View(); err != nil {
		return err
	}
	if _, err := im.Listeners(); err != nil {
		return err
	}
	if _, _, _, _, err := ComparePages(im, im); err != nil {
		return err
	}
	return nil
}

// The pagemap formats of CRIU up to 4.1 and since, and ours, which both read.
func TestPagemapVersions(t *testing.T) {
	head := appendNumber(nil, 1, 7)
	entry := func(fields ...uint64) []byte {
		var b []byte
		for i := 0; i < len(fields); i += 2 {
			b = appendNumber(b, protowire.Number(fields[i]), fields[i+1])
		}
		return b
	}
	want := &pagemap{pagesID: 7, runs: []run{{addr: 0x1000, pages: 3, flags: 6}, {addr: 0x8000, pages: 1, flags: 4, offset: 3 * pageSize}}}
	for name, entries := range map[string][][]byte{
		"old":  {entry(1, 0x1000, 2, 3, 4, 6), entry(1, 0x8000, 2, 1)},
		"4.2":  {entry(1, 0x1000, 2, 0, 4, 6, 5, 3), entry(1, 0x8000, 2, 0, 4, 4, 5, 1)},
		"both": {entry(1, 0x1000, 2, 3, 4, 6, 5, 3), entry(1, 0x8000, 2, 1, 4, 4, 5, 1)},
	} {
		p, err := parsePagemap(append([][]byte{head}, entries...))
		ok(t, err)
		if d := cmp.Diff(want, p, cmp.AllowUnexported(pagemap{}, run{})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	records, err := parseImage(want.encode(), magicPagemap)
	ok(t, err)
	p, err := parsePagemap(records)
	ok(t, err)
	if d := cmp.Diff(want, p, cmp.AllowUnexported(pagemap{}, run{})); d != "" {
		t.Errorf("round trip: %s", d)
	}
	if want := entry(1, 0x1000, 2, 3, 4, 6, 5, 3); !bytes.Contains(bytes.Join(records, nil), want) {
		t.Errorf("%x lacks %x", records, want)
	}
}

func FuzzPagemap(f *testing.F) {
	p := &pagemap{pagesID: 1, runs: []run{{addr: 0x1000, pages: 2, flags: 4}, {addr: 0x9000, pages: 1, flags: 1}}}
	f.Add(p.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := parseImage(b, magicPagemap)
		if err != nil {
			return
		}
		p, err := parsePagemap(records)
		if err != nil {
			return
		}
		if p.stored() < 0 {
			t.Fatalf("%d pages", p.stored())
		}
		records, err = parseImage(p.encode(), magicPagemap)
		ok(t, err)
		again, err := parsePagemap(records)
		ok(t, err)
		if d := cmp.Diff(p, again, cmp.AllowUnexported(pagemap{}, run{}), cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
		_ = present(p.runs, 0, ^uint64(0))
	})
}

// FuzzImages gives the readers a directory in which one image is not what CRIU wrote.
func FuzzImages(f *testing.F) {
	names := []string{"inventory.img", "pstree.img", "core-1.img", "mm-1.img", "files.img", "ids-1.img", "fdinfo-2.img", "pagemap-1.img", "memfd.img"}
	seed, err := filepath.Glob("testdata/images/*.img")
	ok(f, err)
	if len(seed) == 0 {
		f.Fatal("no images to start from")
	}
	whole := make(map[string][]byte)
	for _, name := range seed {
		b, err := os.ReadFile(name)
		ok(f, err)
		whole[filepath.Base(name)] = b
		for i, n := range names {
			if n == filepath.Base(name) {
				f.Add(i, b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which int, b []byte) {
		if which < 0 || which >= len(names) {
			return
		}
		dir := t.TempDir()
		for name, content := range whole {
			ok(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		}
		ok(t, os.WriteFile(filepath.Join(dir, names[which]), b, 0o600))
		for id := range uint32(5) {
			ok(t, os.WriteFile(filepath.Join(dir, pagesName(id)), nil, 0o600))
			ok(t, os.Truncate(filepath.Join(dir, pagesName(id)), 1<<20))
		}
		_ = useAll(dir)
		_, _ = ElideZeros(dir)
	})
}

func BenchmarkElideZeros(b *testing.B) {
	const pages = 64 << 10
	for _, every := range []int{5, pages} {
		b.Run(fmt.Sprintf("one in %d", every), func(b *testing.B) {
			dir := b.TempDir()
			p := &pagemap{pagesID: 1, runs: []run{{addr: 0, pages: pages, flags: flagPresent}}}
			data := make([]byte, pages*pageSize)
			for i := range pages {
				if every == pages || i%every != 0 {
					data[i*pageSize+i%pageSize] = 1
				}
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				b.StopTimer()
				ok(b, os.WriteFile(filepath.Join(dir, "pages-1.img"), data, 0o600))
				ok(b, os.WriteFile(filepath.Join(dir, "pagemap-shmem-1.img"), p.encode(), 0o600))
				b.StartTimer()
				m, err := ElideZeros(dir)
				b.StopTimer()
				if err != nil || every < pages && m.ZeroPages != (pages+4)/5 {
					b.Fatal(m, err)
				}
				_ = os.Remove(filepath.Join(dir, "pages-2.img"))
				b.StartTimer()
			}
		})
	}
}

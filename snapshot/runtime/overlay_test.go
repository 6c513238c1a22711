package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
)

func TestParseOverlay(t *testing.T) {
	for _, c := range []struct {
		options     string
		upper       string
		lower       []string
		dataOnly    bool
		other       []string
		wantFailure bool
	}{
		{options: "rw,lowerdir=/a:/b,upperdir=/u,workdir=/w", upper: "/u", lower: []string{"/a", "/b"}},
		{options: "rw,lowerdir=l/A:l/B,upperdir=id/diff,workdir=id/work,metacopy=on", upper: "id/diff", lower: []string{"l/A", "l/B"}, other: []string{"metacopy=on"}},
		{options: `rw,lowerdir=/a\134:b:/c\040d\054e,upperdir=/u`, upper: "/u", lower: []string{"/a:b", "/c d,e"}},
		{options: "rw,lowerdir+=/a,lowerdir+=/b,datadir+=/c,upperdir=/u", upper: "/u", lower: []string{"/a", "/b"}, dataOnly: true},
		{options: "ro,lowerdir=/a::/data", lower: []string{"/a"}, dataOnly: true},
		{options: "rw,upperdir=/u", upper: "/u", wantFailure: true},
		{options: "", other: []string{""}, wantFailure: true},
	} {
		o, err := parseOverlay(c.options)
		if o.upper != c.upper || !slices.Equal(o.lower, c.lower) || o.dataOnly != c.dataOnly || !slices.Equal(o.other, c.other) || (err != nil) != c.wantFailure {
			t.Errorf("%s: %+v, %v", c.options, o, err)
		}
	}
}

// FuzzParseOverlay prints directories as the kernel would, and reads them back.
func FuzzParseOverlay(f *testing.F) {
	f.Add("/a", "/b:c", "/u,x")
	f.Add(`/a\`, "/ ", "/=\n")
	f.Fuzz(func(t *testing.T, a, b, upper string) {
		if strings.ContainsRune(a+b+upper, 0) || a == "" || b == "" {
			return // no such paths
		}
		kernel := strings.NewReplacer(`\`, `\134`, ",", `\054`, "=", `\075`, " ", `\040`, "\t", `\011`, "\n", `\012`)
		user := strings.NewReplacer(`\`, `\\`, ":", `\:`)
		o, err := parseOverlay("rw,lowerdir=" + kernel.Replace(user.Replace(a)+":"+user.Replace(b)) + ",upperdir=" + kernel.Replace(user.Replace(upper)))
		if err != nil || !slices.Equal(o.lower, []string{a, b}) || o.upper != upper || o.dataOnly {
			t.Errorf("%q %q %q: %+v, %v", a, b, upper, o, err)
		}
	})
}

// FuzzParseOverlayRaw reads anything at all without falling over.
func FuzzParseOverlayRaw(f *testing.F) {
	f.Add(`rw,lowerdir=/a\,upperdir=\07`)
	f.Fuzz(func(t *testing.T, options string) {
		if o, err := parseOverlay(options); err == nil && len(o.lower) == 0 {
			t.Errorf("%q: no lower and no error", options)
		}
	})
}

// TestOverlayOfKernel mounts overlays in the ways that engines do and finds their directories by the mount table.
func TestOverlayOfKernel(t *testing.T) {
	dir := testengine.Dir(t)
	for _, d := range []string{"l", "driver/one/diff", "driver/two/diff", "driver/own/diff", "driver/own/work", "merged",
		"odd one,a=b:c", "odd upper", "odd work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir+"/driver/l", 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"A": "../one/diff", "B": "../two/diff"} {
		if err := os.Symlink(target, filepath.Join(dir, "driver/l", link)); err != nil {
			t.Fatal(err)
		}
	}
	own, lower := dir+"/driver/own/diff", []string{dir + "/driver/two/diff", dir + "/driver/one/diff"}
	t.Chdir(dir + "/driver")

	t.Run("relative to the driver", func(t *testing.T) {
		o := mounted(t, dir+"/merged", func() error {
			return syscall.Mount("overlay", dir+"/merged", "overlay", 0, "lowerdir=l/B:l/A,upperdir=own/diff,workdir=own/work")
		})
		t.Chdir("/")
		if _, _, ok := o.resolve(""); ok {
			t.Error("resolved with nothing to go by")
		}
		if u, l, ok := o.resolve(own); !ok || u != own || !slices.Equal(l, lower) {
			t.Errorf("%v %q %q of %+v", ok, u, l, o)
		}
	})
	t.Run("only lower ones relative", func(t *testing.T) {
		o := mounted(t, dir+"/merged", func() error {
			return syscall.Mount("overlay", dir+"/merged", "overlay", 0, "lowerdir=two/diff:one/diff,upperdir="+own+",workdir="+dir+"/driver/own/work")
		})
		t.Chdir("/")
		if u, l, ok := o.resolve(""); !ok || u != own || !slices.Equal(l, lower) {
			t.Errorf("%v %q %q of %+v", ok, u, l, o)
		}
	})
	t.Run("odd names", func(t *testing.T) {
		odd := dir + "/odd one,a=b:c"
		o := mounted(t, dir+"/merged", func() error {
			return sys.MountOverlay(dir+"/merged", []string{odd, lower[0]}, dir+"/odd upper", dir+"/odd work")
		})
		if u, l, ok := o.resolve(""); !ok || u != dir+"/odd upper" || !slices.Equal(l, []string{odd, lower[0]}) {
			t.Errorf("%v %q %q of %+v", ok, u, l, o)
		}
	})
}

func mounted(t *testing.T, target string, mount func() error) overlay {
	t.Helper()
	if err := mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	mounts, err := proc.Mounts(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	m := mountAt(mounts, target)
	if m == nil {
		t.Fatalf("%s is not in the mount table", target)
	}
	o, err := parseOverlay(m.VFSOptions)
	if err != nil {
		t.Fatalf("%s: %v", m.VFSOptions, err)
	}
	return o
}

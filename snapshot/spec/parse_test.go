package spec

import (
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func accounts(t *testing.T) string {
	return writeFiles(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n# comment\n\nweb:x:100:101::/srv/web:/bin/false\n" +
			"nohome:x:102:102\nbroken:x:many:1:\n200:x:7:8:digits:/seven:\n",
		"etc/group": "root:x:0:\nbin:x:1:root,daemon\nweb:x:101:\nlogs:x:50:web,root\nbad\n",
	})
}

func TestParseUser(t *testing.T) {
	root := accounts(t)
	for in, want := range map[string]specs.User{
		"":         {AdditionalGids: []uint32{0, 1, 50}},
		"0":        {AdditionalGids: []uint32{0, 1, 50}},
		"root":     {AdditionalGids: []uint32{0, 1, 50}},
		"web":      {UID: 100, GID: 101, AdditionalGids: []uint32{101, 50}},
		"100":      {UID: 100, GID: 101, AdditionalGids: []uint32{101, 50}},
		"web:logs": {UID: 100, GID: 50, AdditionalGids: []uint32{50}},
		"web:7":    {UID: 100, GID: 7, AdditionalGids: []uint32{7}},
		"5:6":      {UID: 5, GID: 6, AdditionalGids: []uint32{6}},
		"5":        {UID: 5, AdditionalGids: []uint32{0}},
		"nohome":   {UID: 102, GID: 102, AdditionalGids: []uint32{102}},
		"200":      {UID: 7, GID: 8, AdditionalGids: []uint32{8}}, // a name of digits goes first
	} {
		got, err := ParseUser(root, in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
	for in, kind := range map[string]snapshot.Kind{
		"nobody": snapshot.KindNotFound, "web:nogroup": snapshot.KindNotFound, "broken": snapshot.KindNotFound,
		"-1": snapshot.KindNotFound, "4294967295": snapshot.KindNotFound, ":": snapshot.KindInvalid, "web:": snapshot.KindInvalid, ":1": snapshot.KindInvalid,
	} {
		_, err := ParseUser(root, in)
		wantKind(t, in, err, kind, "")
	}
	if got, err := ParseUser(t.TempDir(), "9:9"); err != nil || got.UID != 9 {
		t.Errorf("without passwd: %v %v", got, err)
	}
	if _, err := ParseUser("", "web"); snapshot.KindOf(err) != snapshot.KindNotFound {
		t.Errorf("without a root file system: %v", err)
	}
}

func TestHostileAccountFiles(t *testing.T) {
	outside := writeFiles(t, map[string]string{"passwd": "evil:x:0:0::/:\n"})
	link := t.TempDir()
	pipe := t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(link, "etc"), 0o755),
		os.Symlink(filepath.Join(outside, "passwd"), filepath.Join(link, "etc/passwd")),
		os.Mkdir(filepath.Join(pipe, "etc"), 0o755),
		syscall.Mkfifo(filepath.Join(pipe, "etc/passwd"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := ParseUser(link, "evil")
	wantKind(t, "link", err, snapshot.KindInvalid, "escapes")
	_, err = ParseUser(pipe, "evil")
	wantKind(t, "pipe", err, snapshot.KindInvalid, "not a regular file")
}

func TestParseVolume(t *testing.T) {
	for in, want := range map[string]struct {
		source, target string
		ro             bool
	}{
		"/a:/b":         {"/a", "/b", false},
		"/a:/b:ro":      {"/a", "/b", true},
		"/a:/b:rw":      {"/a", "/b", false},
		"/a/../c/:/b//": {"/c", "/b", false},
		"/sys:/sys:ro":  {"/sys", "/sys", true},
	} {
		source, target, ro, err := ParseVolume(in)
		if err != nil || source != want.source || target != want.target || ro != want.ro {
			t.Errorf("%s: %s %s %v %v", in, source, target, ro, err)
		}
	}
	for in, text := range map[string]string{
		"": "SOURCE:TARGET", "/a": "SOURCE:TARGET", "/a:/b:ro:x": "SOURCE:TARGET", "data:/b": "source", "/a:b": "target",
		"/a:/": "whole root", "/a:/b/..": "whole root", "/a:/b:z": `unknown mode "z"`, ":/b": "source", "/a:": "target", "/a:/b\x00": "SOURCE",
		"/a:/proc/": "container's /proc", "/proc:/proc": "container's /proc", "/dev:/dev": "container's /dev", "/a:/sys": "container's /sys",
	} {
		_, _, _, err := ParseVolume(in)
		wantKind(t, in, err, snapshot.KindInvalid, text)
	}
}

func FuzzParseVolume(f *testing.F) {
	f.Add("/a:/b:ro")
	f.Fuzz(func(t *testing.T, s string) {
		source, target, _, err := ParseVolume(s)
		if err == nil && (!filepath.IsAbs(source) || !filepath.IsAbs(target) || target == "/" || filepath.Clean(target) != target) {
			t.Errorf("%q gives %q, %q", s, source, target)
		}
	})
}

func FuzzParseUser(f *testing.F) {
	f.Add("web:logs", "web:x:1:1::/:\n", "logs:x:5:web\n")
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644)
		_ = os.WriteFile(filepath.Join(root, "etc/group"), []byte(group), 0o644)
		u, err := ParseUser(root, user)
		if err == nil && (len(u.AdditionalGids) == 0 || u.AdditionalGids[0] != u.GID || u.UID > math.MaxInt32) {
			t.Errorf("%q gives %+v", user, u)
		}
	})
}

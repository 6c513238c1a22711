package picture

import (
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// pictureOf makes a picture of lines "NAME VALUE".
func pictureOf(lines ...string) *Picture {
	p := &Picture{}
	for _, l := range lines {
		name, v, _ := strings.Cut(l, " ")
		p.add(name, "%s", v)
	}
	return p
}

func TestDiff(t *testing.T) {
	a := pictureOf("1/x 1", "1/y same", "1/timer ≈100s every 5s", "1/gone z")
	b := pictureOf("1/x 2", "1/y same", "1/timer ≈97s every 5s", "1/new z")
	want := []string{"~ 1/x 1 → 2", "- 1/gone z", "+ 1/new z"}
	if got := Diff(a, b); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for i, c := range Changes(a, b) {
		if r := c.Reversed(); r.Reversed() != c || i == 0 && r.String() != "~ 1/x 2 → 1" || i == 1 && r.String() != "+ 1/gone z" {
			t.Errorf("%q reversed is %q", c, r)
		}
	}
	if got := Diff(a, a); len(got) > 0 {
		t.Errorf("a picture differs from itself: %q", got)
	}
	if text := pictureOf("a 1", "a 2").Text(); text != "a 1\na#2 2\n" {
		t.Errorf("two facts of one name are written as %q", text)
	}
}

func TestAlike(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"≈100s", "≈160s", true},
		{"≈100s", "≈161s", false},
		{"≈100s", "not armed", false},
		{"≈5s ≈500s", "≈5s ≈900s", false},
		{"≈5s", "≈5s ≈5s", false},
		{"≈5s a", "≈5s b", false},
		{"≈99999999999999999999s", "≈1s", false},
	} {
		if alike(c.a, c.b) != c.want || alike(c.b, c.a) != c.want {
			t.Errorf("%q and %q are alike: %v, want %v", c.a, c.b, !c.want, c.want)
		}
	}
}

// smaps reads mappings out of lines.
func smaps(t *testing.T, lines ...string) []mapping {
	t.Helper()
	var all []mapping
	for _, l := range lines {
		if err := smapsLine(&all, l); err != nil {
			t.Fatal(err)
		}
	}
	return merged(all)
}

func TestMappings(t *testing.T) {
	got := smaps(t,
		"1000-2000 rw-p 00000000 00:00 0 ", "VmFlags: rd wr sd ac ", "2000-3000 rw-p 00000000 00:00 0 ", "VmFlags: rd wr ",
		"3000-4000 rw-p 00000000 00:00 0                  [anon:a name]", "VmFlags: rd wr dc",
		"5000-6000 r--p 00001000 fe:00 77                 /a b (deleted)", "ProtectionKey: 3", "VmFlags: rd",
		"6000-7000 r--p 00002000 fe:00 77                 /a b (deleted)", "ProtectionKey: 3", "VmFlags: rd",
		"7000-8000 r--p 00009000 fe:00 77                 /a b (deleted)", "ProtectionKey: 3", "VmFlags: rd")
	want := []mapping{
		{0x1000, 0x3000, 0, "rw-p", "", "rd wr", true},
		{0x3000, 0x4000, 0, "rw-p", "[anon:a name]", "rd wr dc", true},
		{0x5000, 0x7000, 0x1000, "r--p", "/a b (deleted)", "rd key 3", false},
		{0x7000, 0x8000, 0x9000, "r--p", "/a b (deleted)", "rd key 3", false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, bad := range []string{"VmFlags: rd", "x-y rw-p 0 0 0", "1000-2000", ""} {
		if err := smapsLine(new([]mapping), bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzSmaps(f *testing.F) {
	f.Add("1000-2000 rw-p 00000000 00:00 0 [heap]\nVmFlags: rd wr\n")
	f.Fuzz(func(t *testing.T, text string) {
		var all []mapping
		for line := range strings.Lines(text) {
			if smapsLine(&all, line) != nil {
				return
			}
		}
		if n := len(merged(all)); n > len(all) {
			t.Errorf("%d mappings were merged to %d", len(all), n)
		}
	})
}

func TestInfo(t *testing.T) {
	s := &scene{picture: &Picture{}}
	s.info("1/fd/5", strings.Join([]string{"pos:\t0", "flags:\t02004002", "mnt_id:\t16", "ino:\t1234", "eventfd-id: 9",
		"tfd:        7 events:       19 data:                3  pos:0 ino:45 sdev:f", "tfd:        6 events:       19 data:                4  pos:0 ino:46 sdev:f",
		"it_value: (120, 345)", "it_interval: (5, 0)", "ticks: 3",
		"lock:\t1: POSIX  ADVISORY  WRITE 4711 fe:00:123 0 EOF",
		"inotify wd:1 ino:9e sdev:fe mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:9e"}, "\n"))
	want := "1/fd/5/pos 0\n1/fd/5/flags 02004002\n1/fd/5/it_value ≈120s\n1/fd/5/it_interval (5, 0)\n1/fd/5/ticks some\n" +
		"1/fd/5/lock POSIX ADVISORY WRITE 0 EOF\n1/fd/5/watch inotify wd:1 mask:100 ignored_mask:0\n" +
		"1/fd/5/epoll tfd:6 events:19 data:4\n1/fd/5/epoll#2 tfd:7 events:19 data:3\n"
	if got := s.picture.Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzInfo(f *testing.F) {
	f.Add("tfd: 7 events: 19 data: 3 pos:0\nlock: 1: POSIX\nit_value: (1")
	f.Fuzz(func(t *testing.T, text string) {
		s := &scene{picture: &Picture{}}
		s.info("fd", text)
		if text != "" && strings.Count(s.picture.Text(), "\n") > strings.Count(text, "\n")+1 {
			t.Errorf("%q has more facts than lines", text)
		}
	})
}

func TestAddresses(t *testing.T) {
	trie := "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.3.7\n        /32 host LOCAL\n     |-- 10.0.3.255\n        /32 link BROADCAST\n" +
		"     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.3.7\n        /32 host LOCAL\n"
	s := &scene{own: localAddresses(trie)}
	if !slices.Equal(s.own, []string{"10.0.3.7"}) {
		t.Fatalf("own addresses: %q", s.own)
	}
	for address, want := range map[string]string{"10.0.3.7:80": "own:80", "10.0.3.8:80": "10.0.3.8:80", "[::ffff:10.0.3.7]:80": "own:80",
		"127.0.0.1:80": "127.0.0.1:80", "@x": "@x", "": ""} {
		if got := s.neutral(address); got != want {
			t.Errorf("%q becomes %q, want %q", address, got, want)
		}
	}
}

// A picture of a process is the same each time, shows what is known of it, and another one when something is changed.
func TestOf(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.Env = []string{"A=b c"}
	w, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := io.WriteString(w, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil { // from here on it waits
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	first, err := Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cmdline/0 \"cat\"", "environ/0 \"A=b c\"", "fd/0 pipe#1", "fd/1 pipe#2", "fd/2 /dev/null",
		"status/Name cat", "fd/1/pipe size 65536 queued 0", "ns/net the host's"} {
		if !strings.Contains(first.Text(), fmt.Sprintf("%d/%s\n", pid, want)) {
			t.Errorf("no %q in\n%s", want, first.Text())
		}
	}
	if second, err := Of(pid); err != nil || len(Diff(first, second)) > 0 {
		t.Errorf("a second picture differs: %q, %v", Diff(first, second), err)
	}
	raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, pid)
	if err != nil {
		t.Fatal(err)
	}
	nice := 20 - raw // the call itself has no negative results
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, pid, nice^1); err != nil {
		t.Fatal(err)
	}
	third, err := Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(Diff(first, third), "\n")
	if want := fmt.Sprintf("stat/nice %d → %d", nice, nice^1); !strings.Contains(got, want) {
		t.Errorf("the difference says %q, want %q in it", got, want)
	}
	if _, err := Of(1 << 30); err == nil {
		t.Error("there is a picture of a process that does not exist")
	}
}

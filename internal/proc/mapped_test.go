package proc

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestMappedOutside starts a program from a file system that is then taken out of all mount namespaces.
func TestMappedOutside(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mount("outside", dir, "tmpfs", 0, "size=16m"))
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
	program := filepath.Join(dir, "sle ep")
	copyFile(t, "/bin/sleep", program)
	cmd := exec.Command(program, "1000")
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var want syscall.Stat_t
	must(t, syscall.Stat(program, &want))

	if got := outside(t, cmd.Process.Pid); len(got) > 0 {
		t.Errorf("before the file system is gone: %v", names(got))
	}
	must(t, syscall.Unmount(dir, syscall.MNT_DETACH))
	mounted = false
	got := outside(t, cmd.Process.Pid)
	if len(got) != 1 || got[0].Name() != "/sle ep" || got[0].Inode != want.Ino || got[0].Device != want.Dev {
		t.Errorf("afterwards: %v", names(got))
	}
	for _, f := range got {
		if id, err := MountID(f.File); err != nil || id != f.Mount {
			t.Errorf("mount %d, %v; want %d", id, err, f.Mount)
		}
	}
}

// outside returns the files that a process has from mounts that it does not see.
func outside(t *testing.T, pid int) []MappedFile {
	t.Helper()
	seen, err := Mounts(pid)
	must(t, err)
	mounts := make(map[int]bool)
	for _, m := range seen {
		mounts[m.ID] = true
	}
	files, err := MappedOutside(pid, mounts)
	must(t, err)
	t.Cleanup(func() {
		for _, f := range files {
			f.Close()
		}
	})
	return files
}

func names(files []MappedFile) (out []string) {
	for _, f := range files {
		out = append(out, f.Name())
	}
	return out
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	must(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
}

// TestMappedOutsideOfNothing has every file of this process be outside.
func TestMappedOutsideOfNothing(t *testing.T) {
	files, err := MappedOutside(os.Getpid(), nil)
	must(t, err)
	exe, err := os.Executable()
	must(t, err)
	n := 0
	for _, f := range files {
		if f.Name() == exe {
			n++
		}
		f.Close()
	}
	if n != 1 {
		t.Errorf("%s is %d times in %v", exe, n, names(files))
	}
}

func TestMappedFileLinks(t *testing.T) {
	const maps = `00400000-00401000 r--p 00000000 fe:00 7                             /bin/a
00401000-00495000 r-xp 00001000 fe:00 7                             /bin/a
7f0000000000-7f0000001000 r--p 00000000 00:2a 8                     /lib/b c.so
7f0000001000-7f0000002000 rw-p 00000000 00:00 0 
7f0000003000-7f0000004000 rw-s 00000000 00:01 9                     /memfd:x (deleted)
7ffff0000000-7ffff0001000 rw-p 00000000 00:00 0                     [stack]
`
	want := []string{"map_files/400000-401000", "map_files/7f0000000000-7f0000001000", "map_files/7f0000003000-7f0000004000"}
	if got := mappedFileLinks([]byte(maps)); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzMappedFileLinks(f *testing.F) {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("0-0 /"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, link := range mappedFileLinks(b) {
			if rest, ok := strings.CutPrefix(link, "map_files/"); !ok || !strings.Contains(rest, "-") {
				t.Errorf("%q", link)
			}
		}
	})
}

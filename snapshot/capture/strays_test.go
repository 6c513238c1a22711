package capture

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestStrays has a process with a dead child run a program from a file system that it does not see any more, and looks
// for the program in its root directory, where it is, is changed, and is gone.
func TestStrays(t *testing.T) {
	mount, there := t.TempDir(), filepath.Join(t.TempDir(), "program")
	// By the name that the file has in its own file system it is to be found from the root directory.
	lower := filepath.Join(mount, there)
	must(t, syscall.Mount("strays", mount, "tmpfs", 0, "size=16m"))
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = syscall.Unmount(mount, syscall.MNT_DETACH)
		}
	})
	must(t, os.MkdirAll(filepath.Dir(lower), 0o700))
	program, err := os.ReadFile("/bin/sleep")
	must(t, err)
	must(t, os.WriteFile(lower, program, 0o755))
	must(t, os.WriteFile(there, program, 0o755))
	cmd := exec.Command("sh", "-c", `sleep 0 & exec "$0" 1000`, lower)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); !runs(cmd.Process.Pid, lower); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program is not started, or has no dead child")
		}
	}
	must(t, syscall.Unmount(mount, syscall.MNT_DETACH))
	mounted = false

	found, err := findStrays(cmd.Process.Pid)
	must(t, err)
	defer found.close()
	if len(found) != 1 || found[0].Name() != there {
		t.Fatalf("found %v", found)
	}
	name := criu.ExternalFile(found[0].Mount, found[0].Inode)
	if ext := found.external(); len(ext) != 1 || ext[0] != name {
		t.Errorf("external are %q, want %s", ext, name)
	}
	places, err := found.places(cmd.Process.Pid)
	if p := places[name]; err != nil || len(places) != 1 || p.Path != there || p.Mode != syscall.S_IFREG|0o755 || p.Mount == found[0].Mount {
		t.Errorf("places %v, %v", places, err)
	}
	refused := func(what string) {
		t.Helper()
		if _, err := found.places(cmd.Process.Pid); snapshot.KindOf(err) != snapshot.KindUncloneable || !strings.Contains(err.Error(), there) {
			t.Errorf("%s: %v", what, err)
		}
	}
	program[len(program)/2]++
	must(t, os.WriteFile(there, program, 0o755))
	refused("another content of the same length")
	must(t, os.Remove(there))
	refused("deleted")
	must(t, os.Mkdir(there, 0o755))
	refused("a directory")
}

// runs says whether a process runs a program and has a child that is dead.
func runs(pid int, program string) bool {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	children, err := proc.Children(pid)
	if err != nil || len(children) != 1 || exe != program {
		return false
	}
	state, err := proc.State(children[0])
	return err == nil && state == 'Z'
}

func TestEqual(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789"), 250_000)
	other := bytes.Clone(big)
	other[len(other)-1]++
	for name, c := range map[string]struct {
		a, b []byte
		want bool
	}{
		"empty":   {nil, nil, true},
		"same":    {big, bytes.Clone(big), true},
		"last":    {big, other, false},
		"shorter": {big, big[:len(big)-1], false},
		"none":    {big, nil, false},
	} {
		got, err := equal(iotest.HalfReader(bytes.NewReader(c.a)), bytes.NewReader(c.b))
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := equal(bytes.NewReader(big), iotest.TimeoutReader(bytes.NewReader(big))); err == nil {
		t.Error("a reader's failure is not told")
	}
}

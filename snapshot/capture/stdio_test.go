package capture

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestStdio looks at the descriptors of a process in a mount namespace of its own, as a container's are: those of the
// host's files lie on mounts that it does not have.
func TestStdio(t *testing.T) {
	master, slave, err := sys.OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer pipe.Close()
	for _, c := range []struct {
		name, want string
		private    bool
		files      [3]*os.File
	}{
		{"outside", `^pipe:\[\d+\] file\[[0-9a-f]+:[0-9a-f]+\] tty\[[0-9a-f]+:[0-9a-f]+\]$`, true, [3]*os.File{pipe, file, slave}},
		{"inside", `^  $`, false, [3]*os.File{file, file, slave}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("sleep", "60")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = c.files[0], c.files[1], c.files[2]
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if c.private {
				cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			keys, err := stdioOf(cmd.Process.Pid)
			if got := strings.Join(keys[:], " "); err != nil || !regexp.MustCompile(c.want).MatchString(got) {
				t.Errorf("%q, %v; want %s", got, err, c.want)
			}
			want := 0
			if c.private {
				want = 2
			}
			if got := outside(keys); len(got) != want {
				t.Errorf("CRIU is told of %v", got)
			}
		})
	}
}

func TestForeignVolumes(t *testing.T) {
	got, err := foreignVolumes([]byte(`{"mounts":[
		{"destination":"/proc","type":"proc","source":"proc"},
		{"destination":"/run/secrets","type":"bind","source":"/var/lib/x/userdata/run/secrets","options":["bind"]},
		{"destination":"/etc/hosts","type":"bind","source":"/some/where/hosts","options":["rbind"]},
		{"destination":"/data/","type":"bind","source":"/srv","options":["rbind","ro"]}]}`))
	if err != nil || len(got) != 1 || got["/data"] != "/srv" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := foreignVolumes([]byte("oops")); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("a damaged spec: %v", err)
	}
}

func TestForeignStdio(t *testing.T) {
	dir := t.TempDir()
	if got, err := foreignStdio(dir); err != nil || got != [3]string{} {
		t.Errorf("without a list: %v, %v", got, err)
	}
	write := func(s string) {
		if err := os.WriteFile(filepath.Join(dir, "descriptors.json"), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`["/dev/null","pipe:[12]","pipe:[13]","pipe:[14]"]`)
	if got, err := foreignStdio(dir); err != nil || got != [3]string{"", "pipe:[12]", "pipe:[13]"} {
		t.Errorf("%v, %v", got, err)
	}
	write(`{}`)
	if _, err := foreignStdio(dir); snapshot.KindOf(err) != snapshot.KindCorrupt {
		t.Errorf("a damaged list: %v", err)
	}
}

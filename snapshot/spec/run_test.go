package spec

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// debian makes a root file system that holds nothing but mount points, and returns it with the volumes that put the
// programs of a small Debian there, read-only.
func debian(t *testing.T) (dir string, volumes []string) {
	t.Helper()
	probetest.Need(t, "privileges")
	dir = t.TempDir()
	for _, d := range []string{"usr", "etc", "proc", "sys", "dev", "tmp", "root", "srv", "var/lib/nginx", "var/log/nginx"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for users other than root
		t.Fatal(err)
	}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+l, filepath.Join(dir, l)); err != nil {
			t.Fatal(err)
		}
	}
	full := testrootfs.Dir(t, testrootfs.FullName)
	return dir, []string{full + "/usr:/usr:ro", full + "/etc:/etc:ro"}
}

// runc is a container under runc.
type runc struct {
	root, bundle, id string
}

func prepare(t *testing.T, s *specs.Spec) *runc {
	t.Helper()
	r := &runc{root: t.TempDir(), bundle: t.TempDir(), id: "spec-test-" + snapshot.NewID()[:8]}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.command(context.Background(), "delete", "-f", r.id).Run()
	})
	return r
}

func (r *runc) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "runc", append([]string{"--root", r.root}, args...)...)
	c.WaitDelay = 10 * time.Second
	return c
}

// output runs the container to its end and returns what it printed.
func output(t *testing.T, s *specs.Spec) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := prepare(t, s)
	out, err := r.command(ctx, "run", "-b", r.bundle, r.id).CombinedOutput()
	if err != nil {
		t.Fatalf("runc run: %v\n%s", err, out)
	}
	return string(out)
}

func TestRunSeesDockersSurroundings(t *testing.T) {
	root, volumes := debian(t)
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("10.1.2.3 peer\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Args: []string{"sh", "-c", `hostname; id -u; id -G; pwd; echo $HOME; cat /srv/hosts
			grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\t' ' '
			stat -f -c %T /dev/shm; df -k --output=size /dev/shm | tail -1 | tr -d ' '
			touch /usr/x 2>&1 | grep -o Read-only
			grep -E ' (/sys sysfs|/proc/sys proc) ' /proc/mounts | grep -o ' ro,'
			for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do test -e $f && wc -c < $f; done | sort -u; ls /sys/firmware | wc -l; readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start`},
		Hostname: "spec-host", Rootfs: root, Volumes: append(volumes, hosts+":/srv/hosts"), Workdir: "/tmp", User: "7:8",
		Limits: snapshot.Limits{MemoryBytes: 256 << 20, CPUs: 1, Pids: 100}, CgroupPath: "/spec-test-" + snapshot.NewID()[:8], Seccomp: true,
	}
	mine, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(output(t, mustNew(t, o))), "\n")
	want := []string{"spec-host", "7", "8", "/tmp", "/", "10.1.2.3 peer",
		"CapEff: 0000000000000000", "CapBnd: 00000000a80425fb", "NoNewPrivs: 0", "Seccomp: 2",
		"tmpfs", "65536", "Read-only", " ro,", " ro,", "0", "0"}
	if len(got) != len(want)+2 {
		t.Fatalf("printed %q", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
	if got[len(want)] == mine || got[len(want)+1] != "0" {
		t.Errorf("network namespace %q, lowest port %q", got[len(want)], got[len(want)+1])
	}
}

// TestRunFilter makes system calls inside, and outside of the list.
func TestRunFilter(t *testing.T) {
	probetest.NeedProbe(t, probetest.Architecture("amd64")) // it makes calls by their numbers
	const program = `
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    ctypes.set_errno(0)
    r = libc.syscall(*[ctypes.c_long(a) for a in args])
    print(name, "ok" if r >= 0 else errno.errorcode[ctypes.get_errno()])
call("io_uring_setup", 425, 8, 0)
call("userfaultfd", 323, 0)
call("clone3", 435, 0, 0)
call("unshare user", 272, 0x10000000)
call("clone newns", 56, 0x00020000 | 17, 0)
call("mount", 165, 0, 0, 0, 0, 0)
call("bpf", 321, 0, 0, 0)
call("keyctl", 250, 0, 0)
call("memfd_secret", 447, 0)
call("personality query", 135, 0xffffffff)
call("personality no randomize", 135, 0x0040000)
call("getpid", 39)
call("membarrier query", 324, 0, 0, 0)
call("pidfd_open", 434, 1, 0)
call("memfd_create", 319, ctypes.addressof(ctypes.create_string_buffer(b"x")), 0)
for family in (1, 2, 10, 16, 38, 40):
    call("socket %d" % family, 41, family, 2 if family != 38 else 5, 0)
`
	root, volumes := debian(t)
	s := mustNew(t, Options{Args: []string{"/usr/bin/python3", "-c", program}, Rootfs: root, Volumes: volumes, Seccomp: true})
	want := `io_uring_setup EPERM
userfaultfd EPERM
clone3 ENOSYS
unshare user EPERM
clone newns EPERM
mount EPERM
bpf EPERM
keyctl EPERM
memfd_secret EPERM
personality query ok
personality no randomize EPERM
getpid ok
membarrier query ok
pidfd_open ok
memfd_create ok
socket 1 ok
socket 2 ok
socket 10 ok
socket 16 ok
socket 38 EPERM
socket 40 EPERM
`
	if got := output(t, s); got != want {
		t.Errorf("got:\n%s", got)
	}
}

package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestContainerd(t *testing.T) {
	need(t, "containerd", "ctr", "runc")
	dir := scratch(t)
	write(t, dir+"/config.toml", fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
`, dir+"/data", dir+"/state", dir+"/sock"), 0o600)
	ctr := func(args ...string) string {
		return command(t, "ctr", append([]string{"-a", dir + "/sock", "-n", "test"}, args...)...)
	}
	daemon(t, exec.Command("containerd", "-c", dir+"/config.toml"), dir+"/log", func() error {
		_, err := tryCommand(t.Context(), "ctr", "-a", dir+"/sock", "version")
		return err
	})
	imageArchive(t, busyboxRoot(t, dir+"/root"), dir+"/image.tar")
	ctr("image", "import", "--snapshotter", "overlayfs", dir+"/image.tar")
	cgroup, host := testCgroup(t), t.TempDir()
	for _, id := range []string{"web-1", "web-2"} {
		ctr("run", "-d", "--snapshotter", "overlayfs", "--runc-root", dir+"/runc", "--fifo-dir", dir+"/fifo", "--cgroup", cgroup+"/"+id,
			"--memory-limit", "67108864", "--mount", "type=bind,src="+host+",dst=/vol,options=rbind:ro",
			"localhost/counter:latest", id, "sh", "-c", counter)
		t.Cleanup(func() {
			clean(t, "ctr", "-a", dir+"/sock", "-n", "test", "task", "rm", "-f", id)
			clean(t, "ctr", "-a", dir+"/sock", "-n", "test", "container", "rm", id)
		})
	}
	r := Containerd{State: dir + "/state"}
	bundle := filepath.Join(dir, "state/io.containerd.runtime.v2.task/test/web-1")
	s := find(t, r, "test/web-1", "web-1", bundle)
	name, _ := os.Hostname()
	if s.ID != "web-1" || s.Bundle != bundle || s.Hostname != name || s.TTY || s.Cgroup != cgroup+"/web-1" || s.Upper == "" {
		t.Errorf("id %q, bundle %q, hostname %q, tty %v, cgroup %q, upper %q", s.ID, s.Bundle, s.Hostname, s.TTY, s.Cgroup, s.Upper)
	}
	if s.Volumes["/vol"] != host || len(s.Volumes) != 1 || len(s.Files) != 0 {
		t.Errorf("volumes %v, files %v", s.Volumes, s.Files)
	}
	wantLimits(t, s, snapshot.Limits{MemoryBytes: 64 << 20})
	checkpoint(t, s)

	wantKind(t, r, "web", snapshot.KindInvalid)
	wantKind(t, r, "other/web-1", snapshot.KindNotFound)
	wantKind(t, r, "nobody", snapshot.KindNotFound)
	ctr("task", "kill", "-s", "KILL", "web-2")
	eventually(t, "the task to end", func() error {
		if _, err := r.Find(t.Context(), "web-2"); err == nil {
			return fmt.Errorf("it is still found")
		}
		return nil
	})
	wantKind(t, r, "web-2", snapshot.KindState)
}

package api_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// sleeping is a container that does nothing.
func sleeping(t *testing.T, svc *api.Local, name string) *snapshot.Container {
	t.Helper()
	c, err := svc.Run(t.Context(), api.RunRequest{Name: name, Rootfs: testrootfs.Busybox(t), Args: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestProgramCannotStart asks for programs and directories that the container lacks, in a new container and in one that
// runs. Nothing may be left of the former.
func TestProgramCannotStart(t *testing.T) {
	svc, in := open(t)
	c := sleeping(t, svc, "web")
	before := listing(t, svc)
	for _, want := range []struct {
		args    []string
		workdir string
		status  int
		words   string
	}{
		{[]string{"nosuch"}, "", 127, `program "nosuch": not found`},
		{[]string{"/no/such"}, "", 127, `program "/no/such": not found`},
		{[]string{"/etc/passwd"}, "", 126, `program "/etc/passwd": not executable`},
		{[]string{"/etc"}, "", 126, `program "/etc": is a directory`},
		{[]string{"true"}, "/etc/passwd", 126, `working directory "/etc/passwd": not a directory`},
	} {
		_, err := svc.Run(t.Context(), api.RunRequest{Rootfs: testrootfs.Busybox(t), Args: want.args, Workdir: want.workdir})
		wantProgramError(t, err, want.status, want.words)
		_, err = svc.Exec(t.Context(), c.ID, api.ExecRequest{Args: want.args, Workdir: want.workdir})
		wantProgramError(t, err, want.status, want.words)
	}
	_, err := svc.Exec(t.Context(), c.ID, api.ExecRequest{Args: []string{"true"}, Workdir: "etc"})
	refused(t, err, snapshot.KindInvalid, "not an absolute path")
	if after := listing(t, svc); after != before {
		t.Errorf("containers are left:\n%s\nwas\n%s", after, before)
	}
	// What the user got wrong is no failure of the shim's: its log says nothing, and goes.
	if err := svc.Remove(t.Context(), c.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := eventually(t.Context(), func() error {
		if left, err := filepath.Glob(filepath.Join(in.Run, "shims", "*")); err != nil || len(left) > 0 {
			return fmt.Errorf("left of the shims: %v, %w", left, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func wantProgramError(t *testing.T, err error, status int, words string) {
	t.Helper()
	p, ok := errors.AsType[*api.ProgramError](err)
	if !ok || p.Status != status || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "container process") {
		t.Errorf("%v, want status %d and %q", err, status, words)
	}
}

// TestShimLogGoes has a shim say something of its container; that goes when the container does.
func TestShimLogGoes(t *testing.T) {
	svc, in := open(t)
	c := sleeping(t, svc, "web")
	log := filepath.Join(in.Run, "shims", c.ID+".log")
	if err := os.WriteFile(log, []byte("a word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := svc.Remove(t.Context(), c.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(log); !os.IsNotExist(err) {
		t.Errorf("the shim's log is left: %v", err)
	}
}

// TestEndOnFullDisk has containers end while the disk is full. How they ended is known all the same, they can be removed, and
// what could not be written then is written when there is room.
func TestEndOnFullDisk(t *testing.T) {
	in := testhost.New(t)
	if err := os.Mkdir(in.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := sys.MountTmpfs(in.Root, "size=24m,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Unmount(in.Root); err != nil {
			t.Error(err)
		}
	})
	t.Setenv(shim.LingerVariable, "200ms")
	svc, err := api.OpenLocal(t.Context(), apitest.Config(in))
	if err != nil {
		t.Fatal(err)
	}
	defer svc.Close()
	ended, removed := sleeping(t, svc, "ended"), sleeping(t, svc, "removed")
	fill := filepath.Join(in.Root, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<16))
	}
	for _, c := range []*snapshot.Container{ended, removed} {
		if err := svc.Kill(t.Context(), c.ID, "KILL"); err != nil {
			t.Fatal(err)
		}
		if status, err := svc.Wait(t.Context(), c.ID); err != nil || status != 137 {
			t.Errorf("wait for %s: %d, %v", c.Name, status, err)
		}
	}
	cs, err := svc.Containers(t.Context(), true)
	if err != nil || len(cs) != 2 || cs[0].Status != snapshot.StatusExited || cs[1].Status != snapshot.StatusExited {
		t.Errorf("containers on a full disk: %+v, %v", cs, err)
	}
	if err := svc.Remove(t.Context(), removed.ID, true); err != nil {
		t.Errorf("remove one on a full disk: %v", err)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := eventually(t.Context(), func() error {
		c, err := shim.ReadContainer(in.Root, ended.ID)
		if err == nil && (c.Status != snapshot.StatusExited || c.ExitStatus != 137 || !c.ExitKnown) {
			err = fmt.Errorf("%s with %d", c.Status, c.ExitStatus)
		}
		return err
	}); err != nil {
		t.Errorf("the record of its end: %v", err)
	}
	if err := svc.Remove(t.Context(), ended.ID, false); err != nil {
		t.Error(err)
	}
	problems, err := svc.Fsck(t.Context(), false)
	if err != nil || len(problems) > 0 {
		t.Errorf("fsck: %v, %v", problems, err)
	}
}

// TestBadVolumes asks for volumes that cannot be, and wants to be told so in our words.
func TestBadVolumes(t *testing.T) {
	svc, _ := open(t)
	dir := t.TempDir()
	for volume, words := range map[string]string{
		dir + ":/proc":           "would replace the container's /proc",
		dir + ":/proc/sys":       "nothing can be shown below /proc",
		dir + ":/dev":            "would replace the container's /dev",
		dir + ":/sys/.":          "would replace the container's /sys",
		dir + ":/etc/passwd":     "one is a directory and the other is not",
		"/etc/hostname:/etc":     "one is a directory and the other is not",
		"relative:/x":            "not an absolute path",
		dir + "/none:/x":         "no such path on this host",
		dir + ":/x:rx":           "unknown mode",
		dir + ":/x/../../..":     "root file system",
		"/etc/hostname:/etc/a/b": "",
	} {
		_, err := svc.Run(t.Context(), api.RunRequest{Rootfs: testrootfs.Busybox(t), Args: []string{"true"}, Volumes: []string{volume}})
		if words == "" {
			if err != nil {
				t.Errorf("%s: %v", volume, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), words) || snapshot.HintOf(err) == "" || strings.Contains(err.Error(), "container init") {
			t.Errorf("%s: %v, hint %q; want %q", volume, err, snapshot.HintOf(err), words)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("mount points were made in the source: %v, %v", left, err)
	}
}

// TestMoreThanAddresses asks for more containers than the subnet has addresses: none is made.
func TestMoreThanAddresses(t *testing.T) {
	_, in := open(t)
	cfg := apitest.Config(in)
	cfg.Subnet = strings.Split(in.Subnet, "/")[0] + "/29"
	svc, err := api.OpenLocal(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := sleeping(t, svc, "web")
	if _, err := svc.Snapshot(t.Context(), api.SnapshotRequest{Container: c.ID, Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	before := listing(t, svc)
	_, err = svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 5})
	refused(t, err, snapshot.KindState, "5 wanted, and 4 of 5 are free")
	if after := listing(t, svc); after != before {
		t.Errorf("made:\n%s\nwas\n%s", after, before)
	}
	clones, err := svc.Clone(t.Context(), api.CloneRequest{Snapshot: "snap", Count: 4})
	if err != nil || len(clones) != 4 {
		t.Fatalf("%d clones where there is room for 4: %v", len(clones), err)
	}
	_, err = svc.Run(t.Context(), api.RunRequest{Rootfs: testrootfs.Busybox(t), Args: []string{"true"}})
	refused(t, err, snapshot.KindState, "1 wanted, and 0 of 5 are free")
	alone, err := svc.Run(t.Context(), api.RunRequest{Rootfs: testrootfs.Busybox(t), Args: []string{"true"}, Network: "none"})
	if err != nil {
		t.Fatalf("a container without an address: %v", err)
	}
	if _, err := svc.Wait(t.Context(), alone.ID); err != nil {
		t.Error(err)
	}
}

func TestBadBridge(t *testing.T) {
	in := api.Config{Root: t.TempDir(), Run: t.TempDir(), Subnet: "10.1.0.0/24", Bridge: "sixteen-letters-"}
	_, err := api.OpenLocal(t.Context(), in)
	refused(t, err, snapshot.KindInvalid, `"sixteen-letters-"`)
}

// TestFrozenContainer has somebody freeze containers from outside: nothing waits for them, and they can be ended.
func TestFrozenContainer(t *testing.T) {
	svc, _ := open(t)
	ctx := t.Context()
	freeze := func(c *snapshot.Container) {
		t.Helper()
		g := sandbox.OpenCgroup(c.Cgroup)
		file, word := "freezer.state", "FROZEN"
		dir, err := g.Dir("freezer")
		if err != nil {
			file, word = "cgroup.freeze", "1"
			if dir, err = g.Dir(""); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(word), 0); err != nil {
			t.Fatal(err)
		}
		if err := eventually(ctx, func() error {
			if _, is, err := g.Frozen(); err != nil || !is {
				return fmt.Errorf("frozen: %v, %w", is, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	c := sleeping(t, svc, "web")
	freeze(c)
	_, err := svc.Exec(ctx, c.ID, api.ExecRequest{Args: []string{"true"}})
	refused(t, err, snapshot.KindState, "the container is frozen; thaw it")
	refused(t, svc.Kill(ctx, c.ID, "HUP"), snapshot.KindState, "frozen")
	began := time.Now()
	if err := svc.Kill(ctx, c.ID, "KILL"); err != nil {
		t.Errorf("kill: %v", err)
	}
	if status, err := svc.Wait(ctx, c.ID); status != 137 || err != nil {
		t.Errorf("killed: %d, %v", status, err)
	}
	graceful, err := svc.Run(ctx, api.RunRequest{Name: "polite", Rootfs: testrootfs.Busybox(t),
		Args: []string{"sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do usleep 10000; done"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := logged(ctx, svc, graceful, "ready"); err != nil {
		t.Fatal(err)
	}
	freeze(graceful)
	if err := svc.Stop(ctx, graceful.ID, 10*time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	if status, err := svc.Wait(ctx, graceful.ID); status != 7 || err != nil {
		t.Errorf("stopped: %d, %v; it was to be thawed and take its SIGTERM", status, err)
	}
	forced := sleeping(t, svc, "forced")
	freeze(forced)
	if err := svc.Remove(ctx, forced.ID, true); err != nil {
		t.Errorf("rm -f: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s to end frozen containers", took)
	}
}

// TestDamagedRecord destroys the record of a container that runs: it stays in sight, and can be removed with what runs.
func TestDamagedRecord(t *testing.T) {
	svc, in := open(t)
	ctx := t.Context()
	c, other := sleeping(t, svc, "web"), sleeping(t, svc, "other")
	if err := os.WriteFile(filepath.Join(svc.ContainerDir(c.ID), "container.json"), []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := svc.Containers(ctx, false)
	if err != nil || len(list) != 2 || list[1].ID != c.ID || list[1].Status != snapshot.StatusDamaged || list[0].ID != other.ID {
		t.Fatalf("listed: %+v, %v", list, err)
	}
	_, err = svc.Exec(ctx, c.ID, api.ExecRequest{Args: []string{"true"}})
	refused(t, err, snapshot.KindCorrupt, "record cannot be read")
	_, err = svc.Wait(ctx, c.ID)
	refused(t, err, snapshot.KindCorrupt, "record cannot be read")
	refused(t, svc.Remove(ctx, c.ID, false), snapshot.KindCorrupt, "record cannot be read")
	problems, err := svc.Fsck(ctx, false)
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Remedy, "rm -f") {
		t.Errorf("fsck: %+v, %v", problems, err)
	}
	if err := svc.Remove(ctx, snapshot.ShortID(c.ID), true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(svc.ContainerDir(c.ID)); !os.IsNotExist(err) {
		t.Errorf("its directory is left: %v", err)
	}
	if pids, err := sandbox.OpenCgroup(c.Cgroup).Pids(); err != nil || len(pids) > 0 {
		t.Errorf("it runs: %v, %v", pids, err)
	}
	if _, err := os.Lstat(filepath.Join(in.Run, "network", c.Network.Address.String())); !os.IsNotExist(err) {
		t.Errorf("its address is leased: %v", err)
	}
	if _, err := execOutput(ctx, svc, other, "true"); err != nil {
		t.Errorf("the other container: %v", err)
	}
}

// TestLogRotation has a container write many times what its log may hold, while one reader follows. The follower misses
// nothing, and what is kept is the end, without a gap.
func TestLogRotation(t *testing.T) {
	_, in := open(t)
	const limit, lines = 64 << 10, 4000 // of 90 bytes or so
	cfg := apitest.Config(in)
	cfg.LogMaxBytes = limit
	svc, err := api.OpenLocal(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := svc.Run(t.Context(), api.RunRequest{Rootfs: testrootfs.Busybox(t), Args: []string{"sh", "-c",
		fmt.Sprintf(`i=0; while [ $i -lt %d ]; do i=$((i+1)); echo "line $i"; [ $((i %% 100)) = 0 ] && usleep 100000; done`, lines)}})
	if err != nil {
		t.Fatal(err)
	}
	read := func(follow bool, tail int) []string {
		t.Helper()
		var b bytes.Buffer
		if err := svc.Logs(t.Context(), c.ID, api.LogsRequest{Follow: follow, Tail: tail, Stdout: &b, Stderr: &b}); err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	}
	if got := read(true, -1); len(got) != lines || !consecutive(got, 1) {
		t.Errorf("followed: %d lines, %q … %q", len(got), got[0], got[len(got)-1])
	}
	for _, path := range []string{shim.LogFile(in.Root, c.ID), shim.OlderLogFile(in.Root, c.ID)} {
		if info, err := os.Stat(path); err != nil || info.Size() > limit || info.Size() == 0 {
			t.Errorf("%s: %+v, %v; want at most %d bytes", path, info, err, limit)
		}
	}
	kept := read(false, -1)
	if len(kept) >= lines || !consecutive(kept, lines-len(kept)+1) {
		t.Errorf("kept: %d lines, %q … %q", len(kept), kept[0], kept[len(kept)-1])
	}
	for _, n := range []int{1, 2, len(kept) - 1, len(kept), len(kept) + 1} {
		want := min(n, len(kept))
		if got := read(false, n); len(got) != want || !consecutive(got, lines-want+1) {
			t.Errorf("the last %d: %d lines, %q … %q", n, len(got), got[0], got[len(got)-1])
		}
	}
}

func consecutive(lines []string, from int) bool {
	for i, l := range lines {
		if l != fmt.Sprintf("line %d", from+i) {
			return false
		}
	}
	return true
}

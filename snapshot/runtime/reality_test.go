package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/internal/testengine"
	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// counter is what test containers run: it counts in /count, for ever.
const counter = `i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done`

// inContainer returns the host's path of a file of the container.
func (s *Source) inContainer(path string) string { return fmt.Sprintf("/proc/%d/root%s", s.Pid, path) }

// checkReality compares what every adapter must find with the container itself.
func checkReality(t *testing.T, s *Source) {
	t.Helper()
	if got := readTrimmed(t, fmt.Sprintf("/proc/%d/comm", s.Pid)); got != "sh" {
		t.Errorf("pid %d runs %q", s.Pid, got)
	}
	if got := strings.Join(s.Args, " "); got != "sh -c "+counter {
		t.Errorf("args %q", got)
	}
	if len(s.Spec) == 0 || s.Spec[0] != '{' {
		t.Errorf("spec %.20q", s.Spec)
	}
	checkLayers(t, s)
	members := strings.Fields(readTrimmed(t, cgroupFile(s, "cgroup.procs")))
	if !slices.Contains(members, fmt.Sprint(s.Pid)) {
		t.Errorf("cgroup %s has %v and not %d", s.Cgroup, members, s.Pid)
	}
	for path := range s.Files {
		if _, err := os.Stat(s.inContainer(path)); err != nil {
			t.Errorf("file: %v", err)
		}
	}
	for path, source := range s.Volumes {
		a, errA := os.Stat(s.inContainer(path))
		b, errB := os.Stat(source)
		if errA != nil || errB != nil || !os.SameFile(a, b) {
			t.Errorf("volume %s is not %s (%v, %v)", path, source, errA, errB)
		}
	}
}

func cgroupFile(s *Source, name string) string {
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		if path := filepath.Join(root, s.Cgroup, name); exists(path) {
			return path
		}
	}
	return filepath.Join("/sys/fs/cgroup", s.Cgroup, name)
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readTrimmed(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// checkLayers writes into the container and looks for it in the layers: own files above, the image's beneath.
func checkLayers(t *testing.T, s *Source) {
	t.Helper()
	const marker = "/tmp/marker"
	write(t, s.inContainer(marker), "mine")
	top := s.Upper
	if top == "" {
		if len(s.Lower) != 1 {
			t.Fatalf("lower %v without upper", s.Lower)
		}
		top = s.Lower[0]
	}
	if got := readTrimmed(t, filepath.Join(top, marker)); got != "mine" {
		t.Errorf("%s%s holds %q", top, marker, got)
	}
	if !slices.ContainsFunc(s.Lower, func(d string) bool { return exists(filepath.Join(d, "bin/busybox")) }) {
		t.Errorf("none of %v has the image's files", s.Lower)
	}
	for _, d := range append(slices.Clone(s.Lower), s.Upper) {
		if d != "" && !filepath.IsAbs(d) {
			t.Errorf("%s is not absolute", d)
		}
	}
}

func wantLimits(t *testing.T, s *Source, want snapshot.Limits) {
	t.Helper()
	if s.Limits != want {
		t.Errorf("limits %+v, want %+v", s.Limits, want)
	}
}

// wantKind looks for something that must not be found.
func wantKind(t *testing.T, r Runtime, ref string, kind snapshot.Kind) {
	t.Helper()
	s, err := r.Find(t.Context(), ref)
	if err == nil {
		t.Fatalf("found %s %s as %s", r.Name(), ref, s.ID)
	}
	if got := snapshot.KindOf(err); got != kind {
		t.Errorf("%s: kind %s, want %s", err, got, kind)
	}
	if (kind == snapshot.KindState || kind == snapshot.KindNotFound) && snapshot.HintOf(err) == "" {
		t.Errorf("%s: no hint", err)
	}
}

// find finds a container by each of the refs, which must be the same one, and checks it against reality.
func find(t *testing.T, r Runtime, refs ...string) *Source {
	t.Helper()
	before := descriptors(t)
	var first *Source
	for _, ref := range refs {
		s, err := r.Find(t.Context(), ref)
		if err != nil {
			t.Fatalf("%v (hint: %s)", err, snapshot.HintOf(err))
		}
		if first == nil {
			first = s
		}
		if s.Pid != first.Pid || s.ID != first.ID || s.Runtime != r.Name() {
			t.Errorf("%s is %s:%s (%d), not %s (%d)", ref, s.Runtime, s.ID, s.Pid, first.ID, first.Pid)
		}
	}
	testengine.Await(t, "descriptors to be closed", func() error {
		if n := descriptors(t); n > before {
			return fmt.Errorf("%d before, %d after", before, n)
		}
		return nil
	})
	testengine.Await(t, "the container to count", func() error { return counted(first, 1) })
	checkReality(t, first)
	return first
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

func counted(s *Source, least int) error {
	b, err := os.ReadFile(s.inContainer("/count"))
	if err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		return err
	}
	if n < least {
		return fmt.Errorf("it has counted to %d", n)
	}
	return nil
}

// checkpoint dumps the container with CRIU, knowing no more than the Source and the mount table, and sees that it goes
// on counting.
func checkpoint(t *testing.T, s *Source) {
	t.Helper()
	criu := testhost.CRIU(t)
	dir := t.TempDir()
	args := []string{"dump", "--tree", fmt.Sprint(s.Pid), "--images-dir", dir, "--log-file", "dump.log", "-v2",
		"--leave-running", "--manage-cgroups=ignore", "--network-lock", "skip", "--tcp-close"}
	inode, err := proc.NamespaceInode(s.Pid, "net")
	if err != nil {
		t.Fatal(err)
	}
	args = append(args, "--external", fmt.Sprintf("net[%d]:net", inode))
	mounts, err := proc.Mounts(s.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range mounts {
		_, volume := s.Volumes[m.Mountpoint]
		host := m.FSType == "cgroup" || m.FSType == "cgroup2" || m.FSType == "devtmpfs"
		// podman's /dev/shm is a tmpfs of the host's, seen through a bind that neither Files nor Volumes name.
		if host || volume || s.Files[m.Mountpoint] {
			args = append(args, "--external", fmt.Sprintf("mnt[%s]:m%d", m.Mountpoint, i))
		}
	}
	var n int
	if _, err := fmt.Sscan(readTrimmed(t, s.inContainer("/count")), &n); err != nil {
		t.Fatal(err)
	}
	if out, err := testengine.Try(t.Context(), criu, args...); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "dump.log"))
		t.Fatalf("criu dump: %v\n%s%s", err, out, log)
	}
	if !exists(filepath.Join(dir, "inventory.img")) || !exists(filepath.Join(dir, "core-1.img")) {
		t.Error("criu wrote no images")
	}
	testengine.Await(t, "the container to count on", func() error { return counted(s, n+5) })
}

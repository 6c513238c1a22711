package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/fault"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// Variables that make the test binary play another part.
const (
	envPublish = "SNAPD_CTR_TEST_PUBLISH" // publish into this store, under the name "new"
	envChroot  = "SNAPD_CTR_TEST_CHROOT"  // change the root directory to this, say so, and wait
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envPublish); dir != "" {
		os.Exit(childPublish(dir))
	}
	if dir := os.Getenv(envChroot); dir != "" {
		if err := syscall.Chroot(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func childPublish(dir string) int {
	s, err := store.Open(dir)
	if err == nil {
		_, err = sample{seed: 7}.publish(noTest{}, s, "new", false)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// noTest is a testing.TB for a process that is no test.
type noTest struct{ testing.TB }

func (noTest) Helper()                  {}
func (noTest) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (noTest) Context() context.Context { return context.Background() }

// chrooted starts a process with another root directory and returns its id.
func chrooted(t *testing.T, root string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), envChroot+"="+root)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if n, err := out.Read(make([]byte, 16)); n == 0 {
		t.Fatalf("the child does not answer: %v", err)
	}
	return strconv.Itoa(cmd.Process.Pid)
}

func TestKilledWhilePublishing(t *testing.T) {
	for _, point := range []string{"store.blob", "store.config", "store.manifest", "store.index-tmp", "store.index"} {
		for _, action := range []string{"kill", "error"} {
			t.Run(point+"="+action, func(t *testing.T) { interrupted(t, point, action) })
		}
	}
}

func interrupted(t *testing.T, point, action string) {
	dir := filepath.Join(t.TempDir(), "store")
	before := publish(t, open(t, dir), "old", sample{seed: 1})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envPublish+"="+dir, fault.Variable+"="+point+"="+action)
	out, err := cmd.CombinedOutput()
	killed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	if err == nil || killed != (action == "kill") {
		t.Fatalf("the publisher ended with %v\n%s", err, out)
	}
	clean(t, dir)
	s := open(t, dir)
	list, err := s.List()
	must(t, err)
	// The index is the commit: killed after its renaming, the snapshot is there, and whole.
	if want := point == "store.index" && action == "kill"; want {
		sn, err := s.Get("new")
		if err != nil {
			t.Fatal(err)
		}
		must(t, s.Verify(t.Context(), sn.ID))
	} else if len(list) != 1 || list[0].ID != before.ID {
		t.Errorf("the store has %d snapshots", len(list))
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "staging")); len(left) != 0 {
		t.Errorf("staging holds %v", left)
	}
	_, _, _, _, err = s.GC(nil, nil, false)
	must(t, err)
	if len(list) == 1 {
		// Every blob of the failed publication is gone, and it can be tried again.
		n, _ := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
		if len(n) != len(before.Layers)+2-duplicates(before) {
			t.Errorf("%d blobs are left", len(n))
		}
		publish(t, s, "new", sample{seed: 7})
	}
}

func duplicates(sn *snapshot.Snapshot) int {
	seen := make(map[string]bool)
	for _, l := range sn.Layers {
		seen[l.Digest] = true
	}
	return len(sn.Layers) - len(seen)
}

// A transaction keeps its blobs from the collector; a killed one does not.
func TestLeases(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	tx, err := s.Begin()
	must(t, err)
	l, err := tx.AddReader(strings.NewReader("blob"), "x", snapshot.RoleBase, "")
	must(t, err)
	blobs, _, _, _, err := s.GC(nil, nil, false)
	must(t, err)
	blob := filepath.Join(s.Dir(), "blobs/sha256", l.Digest[7:])
	if _, err := os.Stat(blob); err != nil || blobs != 0 {
		t.Errorf("the collector took a blob of a running transaction: %v", err)
	}
	must(t, tx.Abort())
	blobs, _, bytes, paths, err := s.GC(nil, nil, true)
	if err != nil || blobs != 1 || bytes != 4 || len(paths) != 1 {
		t.Errorf("a dry run says %d blobs, %d bytes, %q, %v", blobs, bytes, paths, err)
	}
	if _, err := os.Stat(blob); err != nil {
		t.Error("a dry run deletes")
	}
	if blobs, _, _, _, err = s.GC(nil, nil, false); err != nil || blobs != 1 {
		t.Errorf("%d blobs, %v", blobs, err)
	}
}

func TestGCKeepsWhatIsInUse(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	base := addBase(t, s, "", map[string]string{"x": "base"})
	must(t, s.PinImage("image", base, []byte(`{"a":1}`)))
	if b, c, err := s.Image("image"); err != nil || b.Layers[0] != base.Layers[0] || !bytes.Contains(c, []byte(`"a"`)) {
		t.Errorf("image: %v %s %v", b, c, err)
	}
	_, _, err := s.Image("other")
	wantKind(t, err, snapshot.KindNotFound)
	used := publish(t, s, "used", sample{seed: 1, base: base})
	idle := publish(t, s, "idle", sample{seed: 2, base: base})
	for _, id := range []string{used.ID, idle.ID} {
		_, err := s.Unpack(t.Context(), id)
		must(t, err)
	}
	must(t, s.Remove("used"), s.Remove("idle"))
	inUse := func(id string) bool { return id == used.ID }
	_, caches, _, paths, err := s.GC(inUse, nil, false)
	must(t, err)
	if caches != 3 { // images, own layer, content
		t.Errorf("%d caches were deleted: %q", caches, paths)
	}
	u, err := s.Unpack(t.Context(), used.ID)
	must(t, err)
	if read(t, u.Lower[0], "etc/own") != "own file of used" || read(t, u.Images, "pages-1.img") != pages(1, 64) {
		t.Error("the clones have lost their files")
	}
	_, err = s.Unpack(t.Context(), idle.ID)
	wantKind(t, err, snapshot.KindCorrupt)
	_, _, _, _, err = s.GC(nil, nil, false)
	must(t, err)
	left, _ := os.ReadDir(filepath.Join(s.Dir(), "blobs/sha256"))
	if len(left) != 1 || "sha256:"+left[0].Name() != base.Layers[0] {
		t.Errorf("left are %v", left)
	}
}

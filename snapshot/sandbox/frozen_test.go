package sandbox

import (
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestFrozen freezes a cgroup as somebody else would, by each of the host's freezers, and thaws it.
func TestFrozen(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{})
	sleeper := exec.Command("sleep", "60")
	must(t, sleeper.Start())
	defer func() { _ = sleeper.Wait() }()
	defer func() { _ = sleeper.Process.Kill() }()
	must(t, c.Place(sleeper.Process.Pid))
	tried := 0
	for _, f := range []struct{ hierarchy, name, value string }{{"freezer", "freezer.state", "FROZEN"}, {"", "cgroup.freeze", "1"}} {
		file, ok := c.file(f.hierarchy, f.name)
		if !ok {
			continue
		}
		tried++
		if _, frozen, err := c.Frozen(); frozen || err != nil {
			t.Errorf("before %s: frozen %v, %v", f.name, frozen, err)
		}
		must(t, os.WriteFile(file, []byte(f.value), 0))
		if by, frozen, err := c.Frozen(); !frozen || by != file || err != nil {
			t.Errorf("%s: frozen %v by %s, %v", f.name, frozen, by, err)
		}
		must(t, c.Thaw())
		// The events of version 2 come a moment later.
		deadline := time.Now().Add(10 * time.Second)
		for frozen := true; frozen; {
			var err error
			if _, frozen, err = c.Frozen(); err != nil || frozen && time.Now().After(deadline) {
				t.Fatalf("%s: frozen after Thaw, %v", f.name, err)
			}
		}
	}
	if tried == 0 {
		t.Error("the cgroup has no freezer")
	}
	if _, frozen, err := OpenCgroup("/sandbox-test-none/none").Frozen(); frozen || err != nil {
		t.Errorf("a cgroup that is not there: frozen %v, %v", frozen, err)
	}
}

// TestThawBelowFrozen has the cgroup above frozen, which holds a process of version 1 fast.
func TestThawBelowFrozen(t *testing.T) {
	c := testCgroup(t, snapshot.Limits{})
	own, ok := c.file("freezer", "freezer.state")
	if !ok {
		t.Log("this host has no freezer of version 1: version 2 kills what is frozen")
		return
	}
	parent := own[:len(own)-len(c.path)-len("/freezer.state")] + c.path[:len(c.path)-len("/0123456789abcdef0123456789abcdef")] + "/freezer.state"
	must(t, os.WriteFile(parent, []byte("FROZEN"), 0))
	_, frozen, err := c.Frozen()
	if !frozen || err != nil {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	if err := c.Thaw(); snapshot.KindOf(err) != snapshot.KindState || snapshot.HintOf(err) == "" {
		t.Errorf("Thaw: %v", err)
	}
	must(t, os.WriteFile(parent, []byte("THAWED"), 0))
}

func TestBridgeCheck(t *testing.T) {
	for _, name := range []string{"", "abcdefghijklmnop", "a b", "a/b", "..", "-a", "a:b", "br%d", "bré"} {
		b := Bridge{Name: name, Subnet: netip.MustParsePrefix("10.1.0.0/24")}
		if err := b.Check(); snapshot.KindOf(err) != snapshot.KindInvalid || snapshot.HintOf(err) == "" {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, p := range []string{"10.1.0.0/31", "fd00::/64"} {
		b := Bridge{Name: "br0", Subnet: netip.MustParsePrefix(p)}
		if err := b.Check(); snapshot.KindOf(err) != snapshot.KindInvalid || b.Capacity() != 0 {
			t.Errorf("subnet %s: %v, capacity %d", p, err, b.Capacity())
		}
	}
	for p, want := range map[string]int{"10.1.0.0/30": 1, "10.1.0.0/29": 5, "10.1.2.3/24": 253} {
		b := Bridge{Name: "abcdefghijklmno", Subnet: netip.MustParsePrefix(p)}
		if err := b.Check(); err != nil || b.Capacity() != want {
			t.Errorf("subnet %s: %v, capacity %d, want %d", p, err, b.Capacity(), want)
		}
	}
}

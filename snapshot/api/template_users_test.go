package api_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"google.golang.org/protobuf/proto"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
)

// TestTemplateUsers has the processes of a clone be of several users, with several capabilities: the images are changed to
// say so, since not every host lets CRIU look at other users' processes. Each process has the powers that it had, and no others.
func TestTemplateUsers(t *testing.T) {
	svc, in := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	original := snapshotOf(ctx, t, svc, "snap", api.RunRequest{Name: "original", Rootfs: testrootfs.Busybox(t),
		Args: []string{"sh", "-c", "sleep 1000 & sleep 1001 & echo ready; wait"}})
	clonesBy(ctx, t, svc, snapshot.EngineCRIU, "snap", "unpacked", 1)
	const setuid, kill = 1 << 7, 1 << 5
	plain := []string{"Uid: 0 0 0 0", "Gid: 0 0 0 0"}
	want := [][]string{
		{"Uid: 1000 1001 1002 1003", "Gid: 2000 2001 2002 2003", "Groups: 77 88", "CapEff: 0000000000000000", "CapPrm: 0000000000000020",
			"CapBnd: 00000000000000a0"},
		{"Uid: 1004 1004 1004 1004", "Gid: 0 0 0 0", "CapEff: 0000000000000080", "CapPrm: 0000000000000080", "CapBnd: 00000000000000a0"},
	}
	for i, change := range []func(*creds.CredsEntry){
		func(c *creds.CredsEntry) {
			c.Uid, c.Euid, c.Suid, c.Fsuid = new(uint32(1000)), new(uint32(1001)), new(uint32(1002)), new(uint32(1003))
			c.Gid, c.Egid, c.Sgid, c.Fsgid = new(uint32(2000)), new(uint32(2001)), new(uint32(2002)), new(uint32(2003))
			c.Groups = []uint32{77, 88}
			c.CapEff, c.CapPrm, c.CapInh, c.CapBnd = []uint32{0, 0}, []uint32{kill, 0}, []uint32{0, 0}, []uint32{kill | setuid, 0}
		},
		func(c *creds.CredsEntry) {
			c.Uid, c.Euid, c.Suid, c.Fsuid = new(uint32(1004)), new(uint32(1004)), new(uint32(1004)), new(uint32(1004))
			c.CapEff, c.CapPrm, c.CapInh, c.CapBnd = []uint32{setuid, 0}, []uint32{setuid, 0}, []uint32{0, 0}, []uint32{kill | setuid, 0}
		},
	} {
		name := fmt.Sprintf("core-%d.img", inside(t, workers(t, original)[i]))
		changeCores(t, in.Root, name, func(c *criu_core.CoreEntry) { change(c.GetThreadCore().GetCreds()) })
	}
	c := clonesBy(ctx, t, svc, snapshot.EngineTemplate, "snap", "clone", 1)[0]
	below := workers(t, c)
	if len(below) != 2 {
		t.Fatalf("the clone has the processes %v", below)
	}
	slices.SortFunc(below, func(a, b int) int { return inside(t, a) - inside(t, b) })
	for i, pid := range append(below, c.Pid) {
		is := statusLines(t, pid)
		for _, line := range append(want, plain)[i] {
			if !strings.Contains(is, "\n"+line+"\n") {
				t.Errorf("process %d of the clone has not %q:%s", i, line, is)
			}
		}
	}
}

// statusLines returns what /proc says of a process, with single spaces.
func statusLines(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := "\n"
	for line := range strings.Lines(string(b)) {
		out += strings.Join(strings.Fields(line), " ") + "\n"
	}
	return out
}

// inside returns the id that a process has in its container.
func inside(t *testing.T, pid int) int {
	t.Helper()
	_, ids, _ := strings.Cut(statusLines(t, pid), "\nNSpid: ")
	ids, _, _ = strings.Cut(ids, "\n")
	n, err := strconv.Atoi(ids[strings.LastIndex(ids, " ")+1:])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// changeCores changes an image of a process wherever it has been unpacked, and changes it back in the end.
func changeCores(t *testing.T, root, name string, change func(*criu_core.CoreEntry)) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != name {
			return err
		}
		found++
		was, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var core criu_core.CoreEntry
		const head = 12 // two magic numbers and a length
		if err := proto.Unmarshal(was[head:], &core); err != nil {
			return err
		}
		change(&core)
		b, err := proto.Marshal(&core)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = os.WriteFile(path, was, 0o600) })
		return os.WriteFile(path, append(binary.LittleEndian.AppendUint32(was[:8:8], uint32(len(b))), b...), 0o600)
	})
	if err != nil || found != 1 {
		t.Fatalf("%s was found %d times: %v", name, found, err)
	}
}

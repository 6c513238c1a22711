package template

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
)

// relative is a process of a made-up tree.
type relative struct{ pid, ppid, pgid, sid uint32 }

func relatives(all ...relative) (tasks []*criu.Task) {
	for i, r := range all {
		own := uint32(100 + i)
		tasks = append(tasks, &criu.Task{
			Tree:  &pstree.PstreeEntry{Pid: &r.pid, Ppid: &r.ppid, Pgid: &r.pgid, Sid: &r.sid},
			Core:  &criu_core.CoreEntry{Tc: &criu_core.TaskCoreEntry{Comm: new("x")}},
			IDs:   &criu_core.TaskKobjIdsEntry{VmId: &own, FilesId: &own, FsId: &own, SighandId: &own},
			Space: &mm.MmEntry{},
		})
	}
	return tasks
}

// TestFamilies has trees with sessions and groups that can come about by forks alone, and others.
func TestFamilies(t *testing.T) {
	first := relative{1, 0, 1, 1}
	for _, c := range []struct {
		name string
		tree []relative
		want string // a piece of why not; "" is that it can be
	}{
		{"one", []relative{first}, ""},
		{"all in one group", []relative{first, {7, 1, 1, 1}, {8, 7, 1, 1}}, ""},
		{"a session of its own", []relative{first, {7, 1, 7, 7}, {8, 7, 7, 7}}, ""},
		{"a group of its own", []relative{first, {7, 1, 7, 1}, {8, 1, 7, 1}, {9, 8, 9, 1}, {10, 7, 7, 1}}, ""},
		{"a group whose leader comes later", []relative{first, {7, 1, 8, 1}, {8, 1, 8, 1}}, ""},
		{"a session that has ended", []relative{first, {7, 1, 7, 5}}, "process 7 (x): it is in the session 5"},
		{"a group that has lost its leader", []relative{first, {7, 1, 5, 1}}, "process 7 (x): it is in the process group 5"},
		{"a group of a distant relative", []relative{first, {7, 1, 7, 1}, {8, 1, 1, 1}, {9, 8, 7, 1}}, "process 9 (x): it is in the process group 7"},
		{"a group in another session", []relative{first, {7, 1, 7, 7}, {8, 1, 7, 1}}, "process 8 (x): it is in the process group 7"},
		{"a child of one that was moved", []relative{first, {7, 1, 7, 1}, {8, 1, 7, 1}, {9, 8, 7, 1}}, ""},
		{"a session of a sibling", []relative{first, {7, 1, 7, 7}, {8, 1, 8, 7}}, "process 8 (x): it is in the session 7"},
		{"a session and another group", []relative{first, {7, 1, 1, 7}}, "process 7 (x): it leads a session"},
		{"an orphan", []relative{first, {7, 5, 1, 1}}, "process 7 (x) has no parent"},
		{"its own parent", []relative{first, {7, 7, 1, 1}}, "process 7 (x) has no parent"},
		{"one twice", []relative{first, {7, 1, 1, 1}, {7, 1, 1, 1}}, "process 7 (x) has no parent"},
		{"nobody", nil, "0 processes"},
		{"generations", []relative{first, {2, 1, 1, 1}, {3, 2, 1, 1}, {4, 3, 1, 1}, {5, 4, 1, 1}, {6, 5, 1, 1}, {7, 6, 1, 1}, {8, 7, 1, 1},
			{9, 8, 1, 1}, {10, 9, 1, 1}}, "process 10 (x) is more than 8 levels below"},
	} {
		tree, why := family(relatives(c.tree...))
		if why == "" {
			k := &compiler{tree: tree}
			k.checkTree()
			why = strings.Join(k.reasons, "; ")
		}
		if c.want == "" && why != "" || !strings.Contains(why, c.want) {
			t.Errorf("%s: %q, want %q", c.name, why, c.want)
		}
	}
	many := []relative{first}
	for i := range uint32(maxProcesses) {
		many = append(many, relative{2 + i, 1, 1, 1})
	}
	if _, why := family(relatives(many...)); why != "65 processes" {
		t.Errorf("many processes: %q", why)
	}
	zombies := relatives(first, relative{7, 1, 1, 1})
	zombies[1].Space = nil
	if _, why := family(zombies); why != "process 7 (x) is a zombie" {
		t.Errorf("a zombie: %q", why)
	}
}

// TestSharedByProcesses has processes with something in common that no fork gives them.
func TestSharedByProcesses(t *testing.T) {
	for what, change := range map[string]func(a, b *criu_core.TaskKobjIdsEntry){
		"shares its memory":               func(a, b *criu_core.TaskKobjIdsEntry) { b.VmId = a.VmId },
		"shares its table of descriptors": func(a, b *criu_core.TaskKobjIdsEntry) { b.FilesId = a.FilesId },
		"shares its directories":          func(a, b *criu_core.TaskKobjIdsEntry) { b.FsId = a.FsId },
		"shares its signal handlers":      func(a, b *criu_core.TaskKobjIdsEntry) { b.SighandId = a.SighandId },
		"another network namespace":       func(_, b *criu_core.TaskKobjIdsEntry) { b.NetNsId = new(uint32(9)) },
		"another pid namespace":           func(_, b *criu_core.TaskKobjIdsEntry) { b.PidNsId = new(uint32(9)) },
		"another mount namespace":         func(_, b *criu_core.TaskKobjIdsEntry) { b.MntNsId = new(uint32(9)) },
	} {
		tree, why := family(relatives(relative{1, 0, 1, 1}, relative{7, 1, 1, 1}))
		if why != "" {
			t.Fatal(why)
		}
		change(tree[0].IDs, tree[1].IDs)
		c := &compiler{tree: tree}
		c.checkTree()
		if got := strings.Join(c.reasons, "; "); !strings.Contains(got, "process 7 (x): it ") || !strings.Contains(got, what) {
			t.Errorf("%s: %q", what, got)
		}
	}
}

// TestShadows lays random address spaces out: nothing overlaps, all that is close stays so, and a page table of the second
// level can be moved as a whole.
func TestShadows(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var vmas []*vma.VmaEntry
		at := uint64(0x400000)
		for range 1 + rnd.IntN(60) {
			at += pageSize * []uint64{0, 1, 512, 1 << 18, 1 << 20, 1 << 28}[rnd.IntN(6)]
			end := at + pageSize*(1+uint64(rnd.IntN(1<<uint(1+rnd.IntN(20)))))
			status := uint32(1 | criu.VMAAnonPrivate)
			if rnd.IntN(5) == 0 {
				status = 1 | criu.VMAAnonShared
			}
			vmas = append(vmas, &vma.VmaEntry{Start: new(at), End: &end, Status: &status})
			at = end
		}
		const from = 0x200000000000
		s := newShadow(vmas, from)
		var places []region
		for _, v := range vmas {
			if !private(v) {
				continue
			}
			to := s.at(v.GetStart())
			length := v.GetEnd() - v.GetStart()
			if to < from || to+length > s.end || s.at(v.GetEnd()-1) != to+length-1 || (to-v.GetStart())%shadowUnit != 0 {
				t.Fatalf("seed %d: %x-%x lies at %x of %x-%x", seed, v.GetStart(), v.GetEnd(), to, s.start, s.end)
			}
			places = append(places, region{to, to + length})
		}
		slices.SortFunc(places, func(a, b region) int { return int(int64(a.start - b.start)) })
		for i := range len(places) - 1 {
			if places[i].end > places[i+1].start {
				t.Fatalf("seed %d: %x and %x overlap", seed, places[i], places[i+1])
			}
		}
		if s.end%shadowUnit != 0 || s.start != from {
			t.Fatalf("seed %d: it ends at %x", seed, s.end)
		}
	}
	if (shadow{}).at(0x1234000) != 0x1234000 {
		t.Error("the first process's memory is not in place")
	}
	// Images may have addresses that no process has.
	c := &compiler{}
	for i := range 40 {
		p := &process{number: i, Task: &criu.Task{Space: &mm.MmEntry{Vmas: []*vma.VmaEntry{{Start: new(uint64(0x10000)),
			End: new(uint64(taskEnd)), Status: new(uint32(1 | criu.VMAAnonPrivate))}}}}}
		c.tree = append(c.tree, p)
	}
	c.placeShadows(home{at: 0x200000000000}, 0x200001000000)
	if got := fmt.Sprint(c.reasons); !strings.Contains(got, "do not fit into one") {
		t.Errorf("forty whole address spaces in one: %s", got)
	}
}

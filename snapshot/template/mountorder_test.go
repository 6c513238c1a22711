package template

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

func rootMount() snapshot.Mount {
	return snapshot.Mount{Path: "/", Kind: snapshot.MountRoot, FSType: "overlay", Flags: []string{"rw"}}
}

func tmpfsMount(path, on string) snapshot.Mount {
	return snapshot.Mount{Path: path, On: on, Kind: snapshot.MountTmpfs, FSType: "tmpfs", Key: "m:" + path}
}

func nativeMount(fstype, path, on string) snapshot.Mount {
	return snapshot.Mount{Path: path, On: on, Kind: snapshot.MountNative, FSType: fstype, Options: "rw"}
}

func bindMount(fstype, from, part, path, on string) snapshot.Mount {
	return snapshot.Mount{Path: path, On: on, Kind: snapshot.MountNative, FSType: fstype, From: from, Part: part}
}

func TestMountOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		mounts []snapshot.Mount
		want   []int // nil: there is no order
	}{
		{"as listed", []snapshot.Mount{rootMount(), nativeMount("proc", "/proc", "/"), tmpfsMount("/a", "/"), tmpfsMount("/a/b", "/a")}, []int{0, 1, 2, 3}},
		{"parents first", []snapshot.Mount{tmpfsMount("/a/b", "/a"), tmpfsMount("/a", "/"), rootMount()}, []int{2, 1, 0}},
		{"hidden first", []snapshot.Mount{rootMount(), tmpfsMount("/a", "/"), tmpfsMount("/a/b", "/")}, []int{0, 2, 1}},
		{"source first", []snapshot.Mount{rootMount(), bindMount("tmpfs", "/dev", "null", "/mask", "/"), tmpfsMount("/dev", "/")}, []int{0, 2, 1}},
		{"before its source is hidden", []snapshot.Mount{rootMount(), nativeMount("proc", "/proc", "/"), tmpfsMount("/proc/irq", "/proc"),
			bindMount("proc", "/proc", "irq/0", "/irq", "/")}, []int{0, 1, 3, 2}},
		{"a mask over a read-only path", []snapshot.Mount{rootMount(), nativeMount("proc", "/proc", "/"), bindMount("proc", "/proc", "irq", "/proc/irq", "/proc"),
			tmpfsMount("/proc/irq", "/proc/irq")}, []int{0, 1, 2, 3}},
		{"a directory over itself and what is in it", []snapshot.Mount{rootMount(), bindMount("overlay", "/", "etc", "/etc", "/"), tmpfsMount("/etc/x", "/"),
			tmpfsMount("/etc/x", "/etc")}, []int{0, 2, 1, 3}},
		{"of two stacked ones, which?", []snapshot.Mount{rootMount(), tmpfsMount("/a", "/"), tmpfsMount("/a", "/a"), tmpfsMount("/a/b", "/a")}, nil},
		{"on nothing", []snapshot.Mount{rootMount(), tmpfsMount("/a/b", "/a")}, nil},
		{"from nothing", []snapshot.Mount{rootMount(), tmpfsMount("/a", "/"), bindMount("proc", "/proc", "sys", "/b", "/")}, nil},
		{"in a circle", []snapshot.Mount{rootMount(), tmpfsMount("/a", "/a/b"), tmpfsMount("/a/b", "/a")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused := false
			l := newMountLayout(c.mounts, func(snapshot.Mount, string) { refused = true })
			order, _, stuck := l.order(func(int) bool { return false })
			if c.want == nil {
				if !refused && len(stuck) == 0 {
					t.Errorf("there is an order: %v", order)
				}
				return
			}
			if diff := cmp.Diff(c.want, order); diff != "" || refused || len(stuck) != 0 {
				t.Errorf("order, refused %v, stuck %v:\n%s", refused, stuck, diff)
			}
		})
	}
}

func TestMountsRefused(t *testing.T) {
	covered := nativeMount("devtmpfs", "/dev/console", "/")
	covered.Options = ""
	with := func(m ...snapshot.Mount) []snapshot.Mount {
		return append([]snapshot.Mount{rootMount(), nativeMount("proc", "/proc", "/"), nativeMount("devpts", "/pts", "/")}, m...)
	}
	odd := nativeMount("sysfs", "/sys", "/")
	odd.Flags = []string{"rw", "idmapped"}
	unknown := nativeMount("mqueue", "/mq", "/")
	unknown.Options = ""
	for _, c := range []struct {
		name   string
		mounts []snapshot.Mount
		want   string // "" for what is not refused
	}{
		{"nothing unusual", with(), ""},
		{"no mounts", nil, "there are 0"},
		{"an old snapshot", []snapshot.Mount{rootMount(), {Path: "/proc", Kind: snapshot.MountNative, FSType: "proc"}}, "take it again"},
		{"a covered device", with(covered), "mount /dev/console: a file system devtmpfs"},
		{"no options", with(unknown), "take it again"},
		{"a terminal", with(bindMount("devpts", "/pts", "0", "/console", "/")), "mount /console: it is a terminal"},
		{"a process", with(bindMount("proc", "/proc", "17/ns", "/ns", "/")), "process 17"},
		{"a covered tmpfs", with(nativeMount("tmpfs", "/t", "/"), bindMount("tmpfs", "/t", "", "/t", "/t")), "content was not recorded"},
		{"an unknown flag", with(odd), "idmapped"},
		{"a mount on nothing", with(tmpfsMount("/x/y", "/x")), "mount /x/y: it cannot be told which mount it lies on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			comp := &compiler{config: &snapshot.Config{Mounts: c.mounts}, data: recipe.NewData(mountsBase)}
			comp.layMounts()
			comp.mounts(comp.data.New(), firstDetached)
			if c.want == "" && len(comp.reasons) > 0 || c.want != "" && !slices.ContainsFunc(comp.reasons, func(r string) bool { return strings.Contains(r, c.want) }) {
				t.Errorf("refused for %q, want %q", comp.reasons, c.want)
			}
			if len(comp.reasons) > 1 {
				t.Errorf("%d reasons for one thing: %q", len(comp.reasons), comp.reasons)
			}
		})
	}
}

// TestMountsOfOneKey has a mount that was made once and is in two places: the second is a bind of the first.
func TestMountsOfOneKey(t *testing.T) {
	comp := &compiler{config: &snapshot.Config{Mounts: []snapshot.Mount{rootMount(), tmpfsMount("/a", "/"), tmpfsMount("/a", "/a")}}, data: recipe.NewData(mountsBase)}
	r := comp.data.New()
	comp.layMounts()
	comp.mounts(r, firstDetached)
	if len(comp.reasons) > 0 {
		t.Fatalf("refused: %q", comp.reasons)
	}
	var what []string
	for i := range r.Len() {
		what = append(what, r.What(i))
	}
	want := []string{"attach /", "enter the root", "change the root", "attach /a", "bind /a", "attach /a", "close", "flags of /a", "enter /"}
	if diff := cmp.Diff(want, what); diff != "" {
		t.Errorf("calls:\n%s", diff)
	}
}

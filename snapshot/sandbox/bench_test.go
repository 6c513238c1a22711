package sandbox

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkNewNetns(b *testing.B) {
	var held []*Netns
	for b.Loop() {
		ns, err := NewNetns()
		check(b, err)
		held = append(held, ns)
	}
	for _, ns := range held {
		check(b, ns.Close())
	}
}

// benchmarkAttach measures Attach alone; aliases are what a clone of a server bound to its address has.
func benchmarkAttach(b *testing.B, aliases []netip.Addr, ports []snapshot.Listener) {
	br := Bridge{Name: "sdtest0", Subnet: netip.MustParsePrefix("10.207.0.0/16"), Dir: b.TempDir()}
	var held []*Netns // the kernel takes namespaces apart in the background, which holds up who makes others
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		ns, err := NewNetns()
		check(b, err)
		held = append(held, ns)
		b.StartTimer()
		_, err = br.Attach(ns, fmt.Sprint(i), aliases, ports)
		check(b, err)
	}
	for _, ns := range held {
		check(b, ns.Close())
	}
	_, err := br.sweep(func(string) bool { return true })
	check(b, err)
}

func BenchmarkAttach(b *testing.B) { benchmarkAttach(b, nil, nil) }

func BenchmarkAttachAlias(b *testing.B) {
	old := netip.MustParseAddr("10.207.9.9")
	benchmarkAttach(b, []netip.Addr{old}, []snapshot.Listener{{Proto: "tcp", Address: old, Port: 80}})
}

func BenchmarkCgroup(b *testing.B) {
	parent := fmt.Sprintf("/sandbox-test-bench-%d", os.Getpid())
	for i := 0; b.Loop(); i++ {
		c, err := NewCgroup(fmt.Sprintf("%s/%d", parent, i), snapshot.Limits{MemoryBytes: 1 << 30, CPUs: 1, Pids: 100})
		check(b, err)
		b.StopTimer()
		check(b, c.Remove())
		b.StartTimer()
	}
}

func BenchmarkMountOverlay(b *testing.B) {
	dir := b.TempDir()
	lower := filepath.Join(dir, "lower")
	check(b, os.Mkdir(lower, 0o755))
	for i := 0; b.Loop(); i++ {
		own := filepath.Join(dir, fmt.Sprint(i))
		b.StopTimer()
		check(b, os.Mkdir(own, 0o700))
		b.StartTimer()
		check(b, MountOverlay(own+"/rootfs", []string{lower}, own+"/upper", own+"/work"))
		b.StopTimer()
		check(b, Unmount(own+"/rootfs"))
		b.StartTimer()
	}
}

// BenchmarkPrepareMounts prepares what runc's default container has on a host with nine hierarchies of version 1.
func BenchmarkPrepareMounts(b *testing.B) {
	dir := b.TempDir()
	content := filepath.Join(dir, "dev")
	check(b, os.Mkdir(content, 0o755))
	for _, name := range []string{"core", "fd", "ptmx", "stderr", "stdin", "stdout"} {
		check(b, os.Symlink("/proc", filepath.Join(content, name)))
	}
	for _, name := range []string{"full", "null", "random", "tty", "urandom", "zero"} {
		check(b, os.WriteFile(filepath.Join(content, name), nil, 0o600))
	}
	mounts := []snapshot.Mount{{Path: "/dev", Kind: snapshot.MountTmpfs, Key: "m:/dev", Options: "mode=755,size=65536k"}}
	for _, path := range []string{"/dev/shm", "/sys/fs/cgroup", "/proc/acpi", "/sys/firmware"} {
		mounts = append(mounts, snapshot.Mount{Path: path, Kind: snapshot.MountTmpfs, Key: "m:" + path})
	}
	for i := range 9 {
		path := fmt.Sprint("/sys/fs/cgroup/", i)
		mounts = append(mounts, snapshot.Mount{Path: path, Kind: snapshot.MountBind, Source: "/sys", Key: "m:" + path})
	}
	for b.Loop() {
		_, err := PrepareMounts(dir+"/m", mounts, map[string]string{"m:/dev": content}, PrepareOptions{})
		check(b, err)
		b.StopTimer()
		check(b, RemoveMounts(dir+"/m"))
		b.StartTimer()
	}
}

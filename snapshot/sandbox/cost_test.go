package sandbox

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// meter adds up processor time over the parts of a benchmark that are measured: our own, and that of the kernel's threads, which
// take apart what we gave up. The latter work for others as well: it says something on a quiet machine only.
type meter struct {
	own, kernel           time.Duration
	ownBegan, kernelBegan time.Duration
}

// To ask for the kernel's time takes time of our own.
func (m *meter) start() {
	m.kernelBegan = kernelTime()
	m.ownBegan = ownTime()
}

func (m *meter) stop() {
	m.own += ownTime() - m.ownBegan
	m.kernel += kernelTime() - m.kernelBegan
}

func (m *meter) report(b *testing.B) {
	b.ReportMetric(float64(m.own.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(m.kernel.Nanoseconds())/1e3/float64(b.N), "kernel-µs/op")
}

func ownTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// kernelTime returns what the threads of the kernel that live now have run.
func kernelTime() (sum time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, _ := os.ReadFile(name)
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) < 2 || f[1] != "2" {
			continue
		}
		b, _ = os.ReadFile(filepath.Dir(name) + "/schedstat")
		if f := strings.Fields(string(b)); len(f) > 0 {
			ns, _ := strconv.ParseInt(f[0], 10, 64)
			sum += time.Duration(ns)
		}
	}
	return sum
}

// metered runs f b.N times.
func metered(b *testing.B, f func(i int)) {
	b.Helper()
	var m meter
	b.ResetTimer()
	m.start()
	for i := range b.N {
		f(i)
	}
	b.StopTimer()
	time.Sleep(50 * time.Millisecond) // the kernel takes apart in the background
	m.stop()
	m.report(b)
}

func BenchmarkNothing(b *testing.B) { metered(b, func(int) { time.Sleep(time.Millisecond) }) }

// keepParent keeps the cgroup that a benchmark's are below, as a host with other containers has it.
func keepParent(b *testing.B) string {
	parent := fmt.Sprintf("/sandbox-test-cost-%d"+Clones, os.Getpid())
	keep, err := NewCgroup(parent+"/keep", snapshot.Limits{})
	check(b, err)
	b.Cleanup(func() { check(b, keep.Remove()) })
	return parent
}

func BenchmarkCostCgroup(b *testing.B) {
	parent := keepParent(b)
	metered(b, func(i int) {
		c, err := NewCgroup(fmt.Sprint(parent, "/", i), snapshot.Limits{})
		check(b, err)
		check(b, c.Remove())
	})
}

func BenchmarkCostCgroupMake(b *testing.B) {
	parent := keepParent(b)
	var made []*Cgroup
	metered(b, func(i int) {
		c, err := NewCgroup(fmt.Sprint(parent, "/", i), snapshot.Limits{})
		check(b, err)
		made = append(made, c)
	})
	for _, c := range made {
		check(b, c.Remove())
	}
}

func BenchmarkCostCgroupKillEmpty(b *testing.B) {
	c, err := NewCgroup(keepParent(b)+"/a", snapshot.Limits{})
	check(b, err)
	metered(b, func(int) { check(b, c.Kill(b.Context())) })
	check(b, c.Remove())
}

func BenchmarkCostCgroupDestroy(b *testing.B) {
	parent := keepParent(b)
	var made []*Cgroup
	for i := range b.N {
		c, err := NewCgroup(fmt.Sprint(parent, "/", i), snapshot.Limits{})
		check(b, err)
		made = append(made, c)
	}
	metered(b, func(i int) { check(b, made[i].Destroy(b.Context())) })
}

func BenchmarkCostEntrances(b *testing.B) {
	c, err := NewCgroup(keepParent(b)+"/a", snapshot.Limits{})
	check(b, err)
	metered(b, func(int) {
		files, err := c.Entrances()
		check(b, err)
		for _, f := range files {
			check(b, f.Close())
		}
	})
	check(b, c.Remove())
}

func BenchmarkCostNetns(b *testing.B) {
	metered(b, func(int) {
		ns, err := NewNetns()
		check(b, err)
		check(b, ns.Close())
	})
}

// costBridge is a bridge with 500 other containers on record.
func costBridge(b *testing.B) Bridge {
	br := Bridge{Name: "sdtest0", Subnet: netip.MustParsePrefix("10.207.0.0/16"), Dir: b.TempDir()}
	l, err := openLeases(br.Dir, br.Subnet)
	check(b, err)
	for i := range 500 {
		_, err := l.take(fmt.Sprint("other", i))
		check(b, err)
	}
	check(b, l.Close())
	b.Cleanup(func() {
		_, err := br.sweep(func(string) bool { return true })
		check(b, err)
	})
	return br
}

func benchmarkCostNetwork(b *testing.B, aliases []netip.Addr, ports []snapshot.Listener) {
	br := costBridge(b)
	metered(b, func(i int) {
		ns, err := NewNetns()
		check(b, err)
		n, err := br.Attach(ns, fmt.Sprint(i), aliases, ports)
		check(b, err)
		check(b, ns.Close())
		check(b, br.Free(fmt.Sprint(i), n.Address))
	})
}

func BenchmarkCostNetwork(b *testing.B) { benchmarkCostNetwork(b, nil, nil) }

func BenchmarkCostNetworkAlias(b *testing.B) {
	old := netip.MustParseAddr("10.207.9.9")
	benchmarkCostNetwork(b, []netip.Addr{old}, []snapshot.Listener{{Proto: "tcp", Address: old, Port: 80}})
}

func benchmarkCostReaddress(b *testing.B, addrs []netip.Addr, ports []snapshot.Listener) {
	br := costBridge(b)
	ns, err := NewNetns()
	check(b, err)
	n, err := br.Attach(ns, "first", addrs, ports)
	check(b, err)
	was := "first"
	metered(b, func(i int) {
		if len(addrs) > 0 {
			time.Sleep(50 * time.Millisecond) // our own socket, by which address translation was set up, is not quite gone
		}
		check(b, br.Reusable(ns, n))
		n, err = br.Readdress(ns, was, fmt.Sprint(i), n, addrs, ports)
		check(b, err)
		was = fmt.Sprint(i)
	})
	check(b, ns.Close())
	check(b, br.Free(was, n.Address))
}

func BenchmarkCostReaddress(b *testing.B) { benchmarkCostReaddress(b, nil, nil) }

func BenchmarkCostReaddressAlias(b *testing.B) {
	old := netip.MustParseAddr("10.207.9.9")
	benchmarkCostReaddress(b, []netip.Addr{old}, []snapshot.Listener{{Proto: "tcp", Address: old, Port: 80}})
}

func BenchmarkCostLease(b *testing.B) {
	br := costBridge(b)
	metered(b, func(i int) {
		l, err := openLeases(br.Dir, br.Subnet)
		check(b, err)
		addr, err := l.take(fmt.Sprint(i))
		check(b, err)
		check(b, l.Close())
		check(b, br.Free(fmt.Sprint(i), addr))
	})
}

// Of what a clone of a container of runc's default kind has of its own.
func BenchmarkCostMounts(b *testing.B)      { benchmarkCostMounts(b, false) }
func BenchmarkCostMountsAgain(b *testing.B) { benchmarkCostMounts(b, true) }

func benchmarkCostMounts(b *testing.B, again bool) {
	dir := b.TempDir()
	lower, content := filepath.Join(dir, "lower"), filepath.Join(dir, "dev")
	for _, d := range []string{lower, lower + "/dev", lower + "/etc", content} {
		check(b, os.Mkdir(d, 0o755))
	}
	for _, name := range []string{"core", "fd", "ptmx", "stderr", "stdin", "stdout"} {
		check(b, os.Symlink("/proc", filepath.Join(content, name)))
	}
	mounts := []snapshot.Mount{{Path: "/", Kind: snapshot.MountRoot},
		{Path: "/dev", Kind: snapshot.MountTmpfs, Key: "m:/dev", Options: "mode=755,size=65536k"}}
	for _, path := range []string{"/dev/shm", "/dev/acpi", "/dev/firmware"} {
		mounts = append(mounts, snapshot.Mount{Path: path, Kind: snapshot.MountTmpfs, Key: "m:" + path})
	}
	own := make(map[string][]byte)
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		check(b, os.WriteFile(lower+"/etc/"+name, nil, 0o644))
		path := "/etc/" + name
		mounts = append(mounts, snapshot.Mount{Path: path, Kind: snapshot.MountFile, Key: "m:" + path})
		own[path] = []byte("127.0.0.1 localhost\n")
	}
	bp, err := NewBlueprint([]string{lower}, mounts, map[string]string{"m:/dev": content}, nil)
	check(b, err)
	if again {
		p := Parts{Upper: dir + "/upper", Work: dir + "/work", Files: own}
		d, err := bp.Make(p)
		check(b, err)
		p.Root, err = d.SpareRoot(p)
		check(b, err)
		check(b, d.Close())
		metered(b, func(int) {
			d, err := bp.Make(p)
			check(b, err)
			check(b, d.Close())
		})
		check(b, p.Root.Close())
		return
	}
	metered(b, func(i int) {
		own1 := filepath.Join(dir, fmt.Sprint(b.N, "-", i))
		check(b, os.Mkdir(own1, 0o700))
		d, err := bp.Make(Parts{Upper: own1 + "/upper", Work: own1 + "/work", Files: own})
		check(b, err)
		check(b, d.Close())
		check(b, os.RemoveAll(own1))
	})
}

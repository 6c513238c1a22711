package sandbox

import (
	"os"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestSetSysctls(t *testing.T) {
	ns, err := NewNetns()
	must(t, err)
	defer ns.Close()
	const low, somaxconn = "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/core/somaxconn"
	outside, err := os.ReadFile(low)
	must(t, err)
	host, err := os.ReadFile("/proc/sys/kernel/hostname")
	must(t, err)
	// The second is in the notation with slashes; the third belongs to no network namespace.
	must(t, ns.SetSysctls(map[string]string{"net.ipv4.ip_unprivileged_port_start": "77", "net/core/somaxconn": "99", "kernel.hostname": "nobody"}))
	must(t, sys.InNetns(ns.File(), func() error {
		for path, want := range map[string]string{low: "77", somaxconn: "99"} {
			if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s is %q, %v", path, b, err)
			}
		}
		return nil
	}))
	if b, err := os.ReadFile(low); err != nil || string(b) != string(outside) {
		t.Errorf("outside it is %q, %v", b, err)
	}
	if b, err := os.ReadFile("/proc/sys/kernel/hostname"); err != nil || string(b) != string(host) {
		t.Errorf("the host is called %q, %v", b, err)
	}
	err = ns.SetSysctls(map[string]string{"net.ipv4.no_such_thing": "1"})
	if snapshot.KindOf(err) != snapshot.KindIncompatible {
		t.Errorf("an unknown parameter gives %v", err)
	}
	if err := ns.SetSysctls(map[string]string{"net.ipv4.ip_unprivileged_port_start": "many"}); err == nil {
		t.Error("a wrong value is no error")
	}
}

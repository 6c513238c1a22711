package picture

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

// network learns the container's own addresses, which stand in the picture under one name.
func (s *scene) network(pid int) error {
	dir := fmt.Sprintf("/proc/%d/net/", pid)
	b, err := os.ReadFile(dir + "fib_trie")
	if err != nil {
		return err
	}
	s.own = localAddresses(string(b))
	b, err = os.ReadFile(dir + "if_inet6")
	if err != nil {
		return nil // no IPv6
	}
	for line := range strings.Lines(string(b)) {
		raw, err := hex.DecodeString(strings.Fields(line + " -")[0])
		if err != nil {
			return fmt.Errorf("if_inet6 has the line %q", line)
		}
		if a, ok := netip.AddrFromSlice(raw); ok && !a.IsLoopback() {
			s.own = append(s.own, a.String())
		}
	}
	return nil
}

// localAddresses reads the addresses of this host out of the kernel's routing tables, but those of 127.0.0.0/8.
func localAddresses(trie string) []string {
	var own []string
	last := ""
	for line := range strings.Lines(trie) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "|--" {
			last = f[1]
		}
		if strings.Contains(line, "/32 host LOCAL") && !strings.HasPrefix(last, "127.") && !slices.Contains(own, last) {
			own = append(own, last)
		}
	}
	return own
}

// neutral gives an address of the container's own a name that all containers have.
func (s *scene) neutral(address string) string {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	ip := a.Addr().WithZone("").Unmap().String()
	if slices.Contains(s.own, ip) {
		return fmt.Sprintf("own:%d", a.Port())
	}
	return address
}

// containerID is a part of a path that names one container among others; clones have a parent of their own among cgroups.
var containerID = regexp.MustCompile(`(-clones/)?[0-9a-f]{12,64}`)

// mounts notes the mounts of the first process, each under its path.
func (s *scene) mounts(pid int) error {
	all, err := proc.Mounts(pid)
	if err != nil {
		return err
	}
	at := make(map[int]string)
	for _, m := range all {
		at[m.ID] = m.Mountpoint
	}
	slices.SortStableFunc(all, func(a, b proc.Mount) int { return strings.Compare(a.Mountpoint, b.Mountpoint) })
	for _, m := range all {
		over := at[m.Parent]
		if m.Mountpoint == "/" {
			over = "none"
		}
		root := m.Root
		if strings.Contains(root, "/containers/") { // a file of the container's own: its place on the host
			root = path.Base(root)
		}
		source := containerID.ReplaceAllStringFunc(m.Source, anyContainer)
		s.picture.add("mounts/"+m.Mountpoint, "%s on %s root %s source %s options %s propagation %s super %s", m.FSType, over,
			containerID.ReplaceAllStringFunc(root, anyContainer), source, m.Options, propagation(m.Optional), super(m.VFSOptions))
	}
	return nil
}

// propagation leaves out the numbers of peer groups.
func propagation(optional string) string {
	var out []string
	for _, f := range strings.Fields(optional) {
		kind, _, _ := strings.Cut(f, ":")
		out = append(out, kind)
	}
	if out == nil {
		return "private"
	}
	return strings.Join(out, ",")
}

// super leaves out the options of a super block that name directories of the host.
func super(options string) string {
	kept := slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		key, _, _ := strings.Cut(o, "=")
		return slices.Contains([]string{"lowerdir", "lowerdir+", "upperdir", "workdir", "uuid"}, key)
	})
	return strings.Join(kept, ",")
}

func anyContainer(id string) string {
	if strings.HasPrefix(id, "-clones/") {
		return "/ID"
	}
	return "ID"
}

package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// WriteFiles writes a container's resolv.conf, hosts and hostname into dir, and returns for each the path that it has in the
// container and the file's path.
func WriteFiles(dir string, hostname string, n snapshot.Network) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	contents, err := FileContents(hostname, n)
	if err != nil {
		return nil, err
	}
	files := make(map[string]string)
	for path, content := range contents {
		files[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(files[path], content, 0o644); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// FileContents returns by their paths in a container its resolv.conf, hosts and hostname.
func FileContents(hostname string, n snapshot.Network) (map[string][]byte, error) {
	resolv, err := resolvConf(n.Mode)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"/etc/resolv.conf": resolv,
		"/etc/hosts":       hosts(hostname, n),
		"/etc/hostname":    []byte(hostname + "\n"),
	}, nil
}

func hosts(hostname string, n snapshot.Network) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	b.WriteString("fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	if hostname == "" {
		return b.Bytes()
	}
	address := "127.0.1.1"
	if n.Address.IsValid() {
		address = n.Address.String()
	}
	fmt.Fprintf(&b, "%s\t%s\n", address, hostname)
	return b.Bytes()
}

// resolvConf returns the host's, or, where that names a resolver on the host's own loopback only, which a container with a
// network of its own cannot reach, the one that systemd-resolved keeps for such cases.
func resolvConf(mode string) ([]byte, error) {
	b, err := readIfThere("/etc/resolv.conf")
	if err != nil || mode == "host" || !loopbackOnly(b) {
		return b, err
	}
	real, err := readIfThere("/run/systemd/resolve/resolv.conf")
	if err != nil || len(real) == 0 {
		return b, err
	}
	return real, nil
}

func readIfThere(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func loopbackOnly(resolv []byte) bool {
	servers, loopback := 0, 0
	for line := range strings.Lines(string(resolv)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		servers++
		if a, err := netip.ParseAddr(f[1]); err == nil && a.IsLoopback() {
			loopback++
		}
	}
	return servers > 0 && servers == loopback
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// facts describes the machine and the programs that are compared.
func facts(ctx context.Context, criu string) ([]string, error) {
	kernel, err := sys.KernelRelease()
	if err != nil {
		return nil, err
	}
	out := []string{
		fmt.Sprintf("%d processors, %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name")),
		"memory " + field("/proc/meminfo", "MemTotal"),
		"Linux " + kernel,
		"transparent huge pages: " + strings.TrimSpace(read("/sys/kernel/mm/transparent_hugepage/enabled")),
	}
	for _, c := range [][]string{{criu, "--version"}, {"runc", "--version"}, {"go", "version"}} {
		b, err := exec.CommandContext(ctx, c[0], c[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(c, " "), err)
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		out = append(out, strings.Replace(string(line), "Version:", "CRIU", 1))
	}
	return out, nil
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return string(b)
}

// field returns the value of the first line "name : value".
func field(path, name string) string {
	lines := bufio.NewScanner(strings.NewReader(read(path)))
	for lines.Scan() {
		if k, v, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

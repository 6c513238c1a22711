// Package testrootfs gives tests a root file system to run real programs in.
//
// The directories are made by scripts/rootfs, once for each recipe, and kept in the checkout's cache, so they outlive
// the test and are shared by all: a test uses them as the lower layer of an overlay and never writes to them. `make
// test` makes them ahead; a test that is run by hand makes what is missing, which takes up to a minute and needs root.
//
// In each of them /srv holds the programs of the folder demo: children.sh and goserver in all, and what the others
// need where there is an interpreter for them.
package testrootfs

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
)

// The root file systems there are.
const (
	BusyboxName = "busybox" // one static program, 3 MB
	PythonName  = "python"  // python3 and numpy
	FullName    = "full"    // python3, numpy, node, java, ruby, nginx, redis, busybox
)

const assemblyLimit = 10 * time.Minute

// Dir returns the directory of the root file system name. The test fails when it cannot be made.
func Dir(t testing.TB, name string) string {
	t.Helper()
	top, err := testhost.Checkout()
	if err != nil {
		t.Fatalf("root file system %s: %v", name, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), assemblyLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(top, "scripts", "rootfs"), name)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("root file system %s: %v\n%s\nhint: run 'make setup' as root", name, err, stderr.Bytes())
	}
	dir := strings.TrimSpace(stdout.String())
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		t.Fatalf("root file system %s: the script printed %q, which is no directory", name, dir)
	}
	return dir
}

// Busybox returns the directory of the smallest root file system: a static busybox with all of its names.
func Busybox(t testing.TB) string {
	t.Helper()
	return Dir(t, BusyboxName)
}

package testengine

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
)

const buildLimit = 4 * time.Minute

// Checkpointctl returns the path of the program with which people look into checkpoint archives. `make test` builds it
// ahead; a test that is run by hand builds it when it is not there. The test fails when it cannot be built.
func Checkpointctl(t *testing.T) string {
	t.Helper()
	top, err := testhost.Checkout()
	if err != nil {
		t.Fatalf("checkpointctl: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(top, "scripts", "checkpointctl"))
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("checkpointctl: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

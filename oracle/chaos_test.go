package oracle

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// chaosPort is where the random process answers.
const chaosPort = "7777"

// chaosRootfs returns a root file system with the program of testdata/chaos in it.
func chaosRootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(testrootfs.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("testdata/chaos/*.c")
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-O1", "-static", "-pthread", "-o", filepath.Join(dir, "chaos")}, sources...)
	if out, err := exec.CommandContext(t.Context(), "cc", args...).CombinedOutput(); err != nil {
		t.Fatalf("compile chaos: %v\n%s", err, out)
	}
	return dir
}

// chaosArgs is the command line for a seed.
func chaosArgs(seed int) []string {
	args := []string{"/chaos", fmt.Sprint(seed)}
	for option, variable := range map[string]string{"-only": "ORACLE_ONLY", "-not": "ORACLE_NOT"} {
		if list := os.Getenv(variable); list != "" {
			args = append(args, option, list)
		}
	}
	return args
}

// ask sends a random process a word and returns its answer.
func ask(c *snapshot.Container, word string) (string, error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(c.Network.Address.String(), chaosPort), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, word+"\n"); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	if err == nil && len(b) == 0 {
		err = fmt.Errorf("no answer to %q", word)
	}
	return strings.TrimSpace(string(b)), err
}

// ready asks whether a random process is complete.
func ready(c *snapshot.Container) error {
	_, err := ask(c, "ready")
	return err
}

// report asks a random process for what /proc does not show.
func report(c *snapshot.Container) (string, error) { return ask(c, "report") }

package template

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
)

// restored has CRIU restore what was dumped, and returns what that says of its descriptors.
func (s *stage) restored() string {
	s.t.Helper()
	var netns *os.File
	must(s.t, sys.Aside(func() error {
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		if err == nil {
			err = exec.Command("ip", "link", "set", "lo", "up").Run()
		}
		if err == nil {
			netns, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	}))
	defer netns.Close()
	r, err := s.tool.Restore(s.t.Context(), criu.RestoreOptions{Images: s.images, Work: s.t.TempDir(), Root: s.root, TCPClose: true,
		Inherit: []criu.InheritFD{{Key: "testNet", File: netns}}})
	if err != nil {
		s.t.Fatalf("%v\n%s", err, snapshot.LogOf(err))
	}
	defer func() { // before the next one opens the same fifos
		_ = syscall.Kill(r.Pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(r.Pid, nil, 0, nil)
	}()
	must(s.t, syscall.Kill(r.Pid, syscall.SIGUSR2))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(s.root, "report"))
		if err == nil {
			return string(b)
		}
		if time.Now().After(deadline) {
			s.t.Fatal("what was restored does not answer")
		}
	}
}

// describes returns what is said of one descriptor.
func describes(said string, fd int) string {
	_, line, _ := strings.Cut("\n"+said, fmt.Sprintf("\n%d ", fd))
	line, _, _ = strings.Cut(line, "\n")
	return line
}

// strays says whether a recipe makes anything that is neither as it was nor as CRIU has it.
func strays(before, theirs, ours []string) bool {
	if len(theirs) != len(ours) {
		return !slices.Equal(before, ours)
	}
	for i, f := range ours {
		if f != theirs[i] && (i >= len(before) || len(before) != len(ours) && !slices.Contains(before, f) || len(before) == len(ours) && f != before[i]) {
			return true
		}
	}
	return false
}

// TestDescriptorsAsCRIU has CRIU and a recipe make the same of one dump, as far as CRIU makes what there was.
func TestDescriptorsAsCRIU(t *testing.T) {
	for _, what := range []string{"files", "plumbing", "sockets", "connected"} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			original := s.donor(what)
			theirs := s.restored()
			var files []*os.File
			c, r := s.compile(&files)
			if len(c.reasons) != 0 {
				t.Fatalf("refused: %v", c.reasons)
			}
			ours := s.replay(what, r, files)
			for fd := range replayHigh {
				before, a, b := describes(original, fd), describes(theirs, fd), describes(ours, fd)
				if a == b {
					continue
				}
				if strays(strings.Fields(before), strings.Fields(a), strings.Fields(b)) {
					t.Errorf("descriptor %d, original, by CRIU, by recipe:\n%s\n%s\n%s", fd, before, a, b)
				} else {
					t.Logf("descriptor %d, which CRIU changes (-original +CRIU):\n%s", fd, cmp.Diff(strings.Fields(before), strings.Fields(a)))
				}
			}
		})
	}
}

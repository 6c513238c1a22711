package shim

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestExplain gives what libcontainer was seen to say, and wants our words for it.
func TestExplain(t *testing.T) {
	const starting = "unable to start container process: error during container init: "
	for says, want := range map[string]struct {
		status int
		words  string
	}{
		starting + `exec: "nosuch": executable file not found in $PATH`:               {127, `program "nosuch": not found in the container`},
		starting + `exec: "/no/such": stat /no/such: no such file or directory`:       {127, `program "/no/such": not found in the container`},
		starting + `exec: "/etc/passwd": permission denied`:                           {126, `program "/etc/passwd": not executable`},
		starting + `exec: "/etc": is a directory`:                                     {126, `program "/etc": is a directory`},
		starting + `mkdir /etc/passwd: not a directory`:                               {126, `working directory "/etc/passwd": not a directory`},
		`chdir to cwd ("/x") set in config.json failed: no such file or directory`:    {126, `working directory "/x": not there in the container`},
		`chdir to cwd ("/etc/passwd") set in config.json failed: not a directory`:     {126, `working directory "/etc/passwd": not a directory`},
		starting + `error mounting "/tmp" to rootfs at "/a": mount: not a directory`:  {0, `volume /tmp:/a: one is a directory and the other is not`},
		starting + `error mounting "/tmp" to rootfs at "/proc/x": it is inside /proc`: {0, `volume /tmp:/proc/x: nothing can be shown below /proc`},
	} {
		err := explain(errors.Join(&snapshot.Error{Kind: snapshot.KindFailed, Op: "start", On: "x", Err: errors.New(says)}))
		p, _ := errors.AsType[*ProgramError](err)
		kind := snapshot.KindInvalid
		if want.status == StatusNotExecutable {
			kind = snapshot.KindFailed
		}
		if status := statusOf(p); status != want.status || err.Error() != want.words || snapshot.KindOf(err) != kind {
			t.Errorf("%q becomes %q, kind %s, status %d; want %q, kind %s, status %d", says, err, snapshot.KindOf(err), status, want.words, kind, want.status)
		}
		if want.status != 127 && snapshot.HintOf(err) == "" {
			t.Errorf("%q: no hint", err)
		}
	}
}

func statusOf(p *ProgramError) int {
	if p == nil {
		return 0
	}
	return p.Status
}

// TestExplainKeeps gives errors that the request is not to blame for: nothing of them may be lost but introductions.
func TestExplainKeeps(t *testing.T) {
	if explain(nil) != nil {
		t.Error("an error of nothing")
	}
	several := errors.Join(errors.New(`exec: "x": is a directory`), errors.New("and the cgroup stays"))
	if got := explain(several); !errors.Is(got, several) {
		t.Errorf("of several errors %q is left", got)
	}
	plain := fmt.Errorf("disk: %w", errors.New("on fire"))
	if got := explain(plain); !errors.Is(got, plain) {
		t.Errorf("%q became %q", plain, got)
	}
	got := explain(&snapshot.Error{Kind: snapshot.KindUnsupported, Op: "start", On: "sh", Hint: "pray",
		Err: errors.New("unable to start container process: error during container init: no seccomp")})
	if got.Error() != "start sh: no seccomp" || snapshot.KindOf(got) != snapshot.KindUnsupported || snapshot.HintOf(got) != "pray" {
		t.Errorf("got %q, kind %s, hint %q", got, snapshot.KindOf(got), snapshot.HintOf(got))
	}
	if strings.Contains(got.Error(), "container init") {
		t.Errorf("introductions are left: %q", got)
	}
}

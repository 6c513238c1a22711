package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/internal/probe/probetest"
	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestSpareRoot(t *testing.T) {
	dir := t.TempDir()
	lower := filepath.Join(dir, "lower")
	must(t, os.MkdirAll(lower+"/etc", 0o755))
	must(t, os.WriteFile(lower+"/etc/motd", []byte("hello"), 0o644))
	bp, err := NewBlueprint([]string{lower}, []snapshot.Mount{{Path: "/", Kind: snapshot.MountRoot}}, nil, nil)
	must(t, err)
	writes := map[string]func(root string) error{
		"nothing":         func(root string) error { _, err := os.ReadFile(root + "/etc/motd"); return err },
		"a new file":      func(root string) error { return os.WriteFile(root+"/etc/new", nil, 0o644) },
		"a changed file":  func(root string) error { return os.WriteFile(root+"/etc/motd", []byte("x"), 0o644) },
		"a removed file":  func(root string) error { return os.Remove(root + "/etc/motd") },
		"a mode":          func(root string) error { return os.Chmod(root, 0o700) },
		"come and gone":   func(root string) error { return errors.Join(os.Mkdir(root+"/x", 0o755), os.Remove(root+"/x")) },
		"a mode deep in":  func(root string) error { return os.Chmod(root+"/etc", 0o700) },
		"an attribute":    func(root string) error { return syscall.Setxattr(root, "trusted.test", []byte("x"), 0) },
		"a time it gives": func(root string) error { return os.Chtimes(root, time.Unix(1, 0), time.Unix(1, 0)) },
	}
	for what, write := range writes {
		own := filepath.Join(dir, what)
		must(t, os.Mkdir(own, 0o700))
		p := Parts{Upper: own + "/upper", Work: own + "/work"}
		d, err := bp.Make(p)
		must(t, err)
		spare, err := d.SpareRoot(p)
		if errors.Is(err, syscall.EINVAL) {
			must(t, d.Close())
			probetest.NeedProbe(t, probe.Probe{Name: "mount-again", Run: func(context.Context) error {
				return &probe.NotSupported{Name: "mount-again", Why: "a mount that is not attached cannot be mounted again", Remedy: "use a kernel of 6.15 or newer"}
			}})
		}
		must(t, err)
		for round := range 3 { // moved on from clone to clone
			root := sys.FDPath(d.Files()[0], "")
			_, err = os.ReadFile(root + "/etc/motd")
			must(t, err)
			if ok, err := spare.Untouched(); err != nil || !ok {
				t.Fatalf("%s: untouched before it was written: %v, %v", what, ok, err)
			}
			must(t, d.Close())
			p.Upper, p.Work = fmt.Sprint(own, "/upper", round), fmt.Sprint(own, "/work", round)
			must(t, spare.Move(p.Upper, p.Work))
			p.Root = spare
			d, err = bp.Make(p)
			must(t, err)
		}
		must(t, write(sys.FDPath(d.Files()[0], "")))
		must(t, d.Close())
		if ok, err := spare.Untouched(); err != nil || ok != (what == "nothing") {
			t.Errorf("after %s was written, Untouched = %v, %v", what, ok, err)
		}
		must(t, spare.Close())
	}
}

package criu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

type fakeWitness map[string]int

func (fakeWitness) process(pid int) string {
	if pid == 4711 {
		return "redis"
	}
	return "somebody"
}

func (w fakeWitness) holder(link string) (int, int, bool) {
	fd, ok := w[link]
	return 4711, fd, ok
}

// The logs are CRIU 4.2.1's, shortened.
func TestDiagnose(t *testing.T) {
	const noise = "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
	const end = "Error (criu/cr-dump.c:1545): Dump files (pid: 4711) failed with -1\nError (criu/cr-dump.c:1975): Dumping FAILED.\n"
	w := fakeWitness{"anon_inode:[io_uring]": 9, "socket:[181919]": 5}
	for _, c := range []struct {
		name, log, text string
		kind            snapshot.Kind
	}{
		{"io_uring", "pie: 1: Error (criu/pie/parasite.c:588): send_fds failed (-22)\npie: 1: Close the control socket for writing\n" +
			"Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket\n",
			"redis uses io_uring as descriptor 9, which cannot be captured", snapshot.KindUncloneable},
		{"io_uring mapping", "Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[io_uring])\n",
			"redis uses io_uring as descriptor 9, which cannot be captured", snapshot.KindUncloneable},
		{"userfaultfd", "Error (criu/files-ext.c:94): Can't dump file 1 of that type [600] (anon anon_inode:[userfaultfd])\n",
			"redis has a userfaultfd open, which cannot be captured", snapshot.KindUncloneable},
		{"unknown file", "Error (criu/files-ext.c:94): Can't dump file 7 of that type [20666] (chr 5:1)\n",
			"redis has descriptor 7 open (chr 5:1), of a kind that cannot be captured", snapshot.KindUncloneable},
		{"connected", "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.\n",
			"redis has an established TCP connection, and this dump may not close it", snapshot.KindUncloneable},
		{"in flight", "Error (criu/sk-inet.c:185): inet: In-flight connection (l) for 2c196\n" +
			"Error (criu/sk-inet.c:186): inet: In-flight connections can be ignored with the --skip-in-flight option.\n",
			"redis has a listening socket with a connection that it has not accepted yet", snapshot.KindUncloneable},
		{"ghost", "Error (criu/files-reg.c:1031): Can't dump ghost file /var/tmp/de leted of 104857600 size, increase limit\n",
			"redis has /var/tmp/de leted open, a deleted file of 104857600 bytes: more than goes into a snapshot", snapshot.KindUncloneable},
		{"foreign uid", "Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted\n",
			"redis runs as another user than CRIU, whose resource limits only a process with CAP_SYS_RESOURCE may read", snapshot.KindUncloneable},
		{"nested", "Error (criu/namespaces.c:460): Can't dump nested pid namespace for 4711\n",
			"redis has a pid namespace of its own within the container", snapshot.KindUncloneable},
		{"unix", "Error (criu/sk-unix.c:479): unix: Dangling connection 181919\n",
			"redis has a unix socket as descriptor 5 that is connected to a process outside of the container", snapshot.KindUncloneable},
		{"traced", "Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 4711 (Operation not permitted)\n" +
			"Error (compel/src/lib/infect.c:417): Unable to detach from 4711: No such process\n",
			"redis is being traced by a debugger or strace", snapshot.KindState},
		{"vdso", "(00.010) Error (criu/vdso.c:401): vdso: Unexpected rt vDSO area bounds\n", "this CRIU is too old for this kernel", snapshot.KindUnsupported},
		{"size", "(00.015)      1: Error (criu/files-reg.c:2175): File var/log/a has bad size 10 (expect 20)\n",
			"var/log/a has size 10 now and had 20 when the snapshot was taken", snapshot.KindIncompatible},
		{"mount", "Error (criu/mount.c:753): mnt: 105:/data doesn't have a proper root mount\n",
			"the mount on /data comes from outside of the container and is not known to be external", snapshot.KindUncloneable},
		{"in use", "     1: Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 10): Address already in use\n",
			"an address that a process listens on is taken", snapshot.KindState},
		{"full", "Error (criu/page-xfer.c:290): page-xfer: Unable to spice data: No space left on device\n",
			"the file system for the images is full", snapshot.KindNoSpace},
	} {
		d, ok := diagnose(noise+c.log+end, w)
		if !ok || d.text != c.text || d.kind != c.kind {
			t.Errorf("%s: %q (%s), want %q", c.name, d.text, d.kind, c.text)
		}
	}
	if d, ok := diagnose(noise+"Error (criu/new.c:1): never heard of\n", w); ok {
		t.Errorf("an unknown log means %q", d.text)
	}
	if got := firstError(noise + "Error (criu/new.c:1): never heard of\n" + end); got != "never heard of" {
		t.Errorf("first error %q", got)
	}
}

// What CRIU refuses, from real processes, which must go on running.
func TestRefusedDumps(t *testing.T) {
	for mode, want := range map[string]string{
		"uring":    "io_uring as descriptor 1",
		"uringmap": "uses io_uring",
		"uffd":     "userfaultfd open as descriptor 1",
		"ghost":    "/deleted open, a deleted file of 104857600 bytes",
		"nested":   "pid namespace of its own",
		"nestedns": "uts namespace of its own",
		"outside":  "unix socket as descriptor 1",
		"other":    "runs as another user",
	} {
		t.Run(mode, func(t *testing.T) {
			v := newVictim(t, mode, 1)
			if mode == "other" {
				v.tool = withoutResource(t, v.tool)
			}
			_, err := v.tool.Dump(t.Context(), v.dumpOptions())
			if snapshot.KindOf(err) != snapshot.KindUncloneable || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "victim (process ") {
				t.Errorf("error %v, want one about %q", err, want)
			}
			if snapshot.HintOf(err) == "" || !strings.Contains(logOf(err), "Error") {
				t.Errorf("hint %q, log %q", snapshot.HintOf(err), logOf(err))
			}
			v.sums(v.pid)
		})
	}
	t.Run("connected", func(t *testing.T) {
		v := newVictim(t, "network", 1)
		o := v.dumpOptions()
		o.TCPClose = false
		if _, err := v.tool.Dump(t.Context(), o); snapshot.KindOf(err) != snapshot.KindUncloneable || !strings.Contains(err.Error(), "established TCP") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("traced", func(t *testing.T) {
		v := newVictim(t, "", 1)
		err := sys.Aside(func() error {
			if err := syscall.PtraceAttach(v.pid); err != nil {
				return err
			}
			var ws syscall.WaitStatus
			if _, err := syscall.Wait4(v.pid, &ws, syscall.WALL, nil); err != nil {
				return err
			}
			if err := syscall.PtraceCont(v.pid, 0); err != nil {
				return err
			}
			_, err := v.tool.Dump(t.Context(), v.dumpOptions())
			return errors.Join(err)
		})
		if err == nil || !strings.Contains(err.Error(), "is being traced") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("gone", func(t *testing.T) {
		v := newVictim(t, "", 1)
		v.end()
		if _, err := v.tool.Dump(t.Context(), v.dumpOptions()); snapshot.KindOf(err) != snapshot.KindState {
			t.Errorf("error %v", err)
		}
	})
}

// withoutResource is the tool without CAP_SYS_RESOURCE, with which it could dump processes of other users.
func withoutResource(t *testing.T, tool Tool) Tool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "criu")
	const drop = "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource"
	ok(t, os.WriteFile(path, []byte("#!/bin/sh\nexec "+drop+" '"+tool.Path+"' \"$@\"\n"), 0o700))
	return Tool{Path: path}
}

// Connections that nobody has accepted are left out of a dump which closes connections.
func TestInFlightConnection(t *testing.T) {
	v := newVictim(t, "halfopen", 1)
	v.dump(t.Context())
	v.end()
	mustRestore(t, v, v.restoreOptions())
}

func TestMissingFileAtRestore(t *testing.T) {
	v := newVictim(t, "", 1)
	v.dump(t.Context())
	v.end()
	ok(t, os.WriteFile(filepath.Join(v.root, "file"), []byte("short"), 0o600))
	if _, err := v.tool.Restore(t.Context(), v.restoreOptions()); snapshot.KindOf(err) != snapshot.KindIncompatible || !strings.Contains(err.Error(), "file has size 5 now") {
		t.Errorf("error %v", err)
	}
	noChildren(t)
}

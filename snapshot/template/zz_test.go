package template

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

func TestZZ(t *testing.T) {
	var cfg snapshot.Config
	b, _ := os.ReadFile(os.Getenv("ZZCFG"))
	if err := json.Unmarshal(b, &cfg); err != nil {
		t.Fatal(err)
	}
	var lower []string
	json.Unmarshal([]byte(os.Getenv("ZZLOWER")), &lower)
	var contents map[string]string
	json.Unmarshal([]byte(os.Getenv("ZZCONTENTS")), &contents)
	err := sys.InNewNamespaces(syscall.CLONE_NEWNS, func() error {
		th := sys.NewThread()
		_ = th
		dir := t.TempDir()
		if d := os.Getenv("ZZDIR"); d != "" {
			dir = d
			os.RemoveAll(d)
			os.MkdirAll(d, 0700)
		}
		began := time.Now()
		tm, err := Build(t.Context(), Source{&cfg, lower, os.Getenv("ZZ")}, Options{Stub: os.Getenv("SNAPD_CTR_STUB"), Dir: filepath.Join(dir, "t"), Launch: func(f func() error) error { return f() }})
		if err != nil {
			return err
		}
		fmt.Println("built in", time.Since(began), "pid", tm.Pid)
		out, _ := exec.Command("sh", "-c", fmt.Sprintf("head -30 /proc/%d/maps; grep -E 'Anon|Rss|Huge' /proc/%d/smaps_rollup; ls -l /proc/%d/fd", tm.Pid, tm.Pid, tm.Pid)).CombinedOutput()
		fmt.Println(string(out))
		cg, err := sandbox.NewCgroup("/snapd-ctr-zz/zz", snapshot.Limits{})
		if err != nil {
			return err
		}
		defer cg.Remove()
		bp, err := sandbox.NewBlueprint(lower, cfg.Mounts, contents)
		if err != nil {
			return err
		}
		for i := range 5 {
			ns, err := sandbox.NewNetns()
			if err != nil {
				return err
			}
			t0 := time.Now()
			d, err := bp.Make(sandbox.Parts{Upper: filepath.Join(dir, fmt.Sprint("u", i)), Work: filepath.Join(dir, fmt.Sprint("w", i)), Files: map[string][]byte{}, CgroupPath: "/snapd-ctr-zz/zz"})
			if err != nil {
				return err
			}
			fmt.Println("mounts", time.Since(t0))
			null, _ := os.Open("/dev/null")
			r, w, _ := os.Pipe()
			t0 = time.Now()
			pid, ph, err := tm.Fork(t.Context(), Birth{Hostname: "zz", Stdin: null, Stdout: w, Stderr: w, Netns: ns.File(), Mounts: d.Files()})
			fmt.Println("fork", time.Since(t0), pid, ph, err)
			if err != nil {
				out, _ := exec.Command("sh", "-c", "dmesg | tail -3").CombinedOutput()
				fmt.Println(string(out))
				return err
			}
			d.Close()
			w.Close()
			time.Sleep(300 * time.Millisecond)
			out, _ := exec.Command("sh", "-c", fmt.Sprintf("grep -E 'State|Threads|Name|NSpid|Cap|Seccomp:' /proc/%d/status; ls -l /proc/%d/fd; nsenter -t %d -n curl -s -m 5 http://127.0.0.1:8080/healthz; cat /proc/%d/mountinfo | head -50", pid, pid, pid, pid)).CombinedOutput()
			if i == 0 {
				fmt.Println(string(out))
			}
			syscall.Kill(pid, syscall.SIGKILL)
			time.Sleep(10 * time.Millisecond)
			go io.Copy(os.Stdout, r)
			var ws syscall.WaitStatus
			fmt.Println(syscall.Wait4(pid, &ws, 0, nil))
			fmt.Println(ws.Signal(), ws.ExitStatus())
			ns.Close()
		}
		return tm.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Command demo shows what snapd-ctr is for: a Python function that took seconds to warm up is snapshotted once, twenty
// clones of it are started, and each is called over HTTP. Beside them stands runc restore of the same program.
//
// It drives the command line, as a user would. Run it with `make demo`.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapd-ctr/snapd-ctr/bench/baseline"
	"github.com/snapd-ctr/snapd-ctr/internal/proc"
)

const (
	clones = 20
	server = "/srv/server.py"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	rootfs := os.Getenv("SNAPD_CTR_ROOTFS")
	if rootfs == "" {
		return errors.New("run it through `make demo`, as root")
	}
	dir, err := os.MkdirTemp("", "snapd-ctr-demo-")
	if err != nil {
		return err
	}
	d := demo{dir: dir}
	defer func() { err = errors.Join(err, d.cleanUp()) }()

	say("a Python server that holds 150 MB is started in a container …")
	start := time.Now()
	if _, err := d.cli(ctx, "run", "--name", "web", "--rootfs", rootfs, "--", "python3", server, "--mb", "150"); err != nil {
		return err
	}
	if _, err := d.cli(ctx, "snapshot", "web", "warm", "--ready", "http://:8080/healthz", "--warm", "3"); err != nil {
		return err
	}
	say("… warmed, and snapshotted once, %.1f s after its start; it keeps running", time.Since(start).Seconds())
	rows, err := d.clone(ctx)
	if err != nil {
		return err
	}
	restored, err := d.runc(ctx, rootfs)
	if err != nil {
		return err
	}
	if err := settled(ctx, rows); err != nil {
		return err
	}
	show(rows, restored)
	return nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// demo is an installation of its own, which is gone afterwards.
type demo struct{ dir string }

// cli runs snapd-ctr and returns what it printed.
func (d demo) cli(ctx context.Context, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, "snapd-ctr", args...)
	c.Env = append(os.Environ(), "SNAPD_CTR_ROOT="+filepath.Join(d.dir, "root"), "SNAPD_CTR_RUN="+filepath.Join(d.dir, "run"),
		"SNAPD_CTR_BRIDGE=snapddemo0", "SNAPD_CTR_SUBNET=10.88.208.0/24", "SNAPD_CTR_SHIM_LINGER=1s")
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return out, fmt.Errorf("snapd-ctr %s: %w\n%s", args[0], err, stderr.String())
	}
	return out, nil
}

// row is what one clone took.
type row struct {
	Name    string
	Address string
	Pid     int
	CloneMS float64 `json:"clone_ms"`
	answer  string
	first   time.Duration // the request to the clone, until its answer
	private int64         // when it had answered
	whole   int64         // when all of its memory had been brought
}

// clone starts the clones and calls each.
func (d demo) clone(ctx context.Context) ([]row, error) {
	start := time.Now()
	out, err := d.cli(ctx, "clone", "warm", "-n", fmt.Sprint(clones), "--name", "web-clone", "--json")
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	var rows []row
	if err := json.Unmarshal(out, &rows); err != nil {
		return nil, err
	}
	for i := range rows {
		r := &rows[i]
		if r.answer, r.first, err = call(ctx, r.Address); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Name, err)
		}
		if r.private, err = proc.PrivateBytes(r.Pid); err != nil {
			return nil, err
		}
	}
	say("%d clones run %.0f ms after the command was given; each was called over HTTP:", len(rows), millis(took))
	return rows, nil
}

func call(ctx context.Context, address string) (string, time.Duration, error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+":8080/value", nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return strings.TrimSpace(string(b)), time.Since(start), err
}

// runc restores a checkpoint of the same program five times.
func (d demo) runc(ctx context.Context, rootfs string) ([]float64, error) {
	r := baseline.Runc{Dir: d.dir, CRIU: os.Getenv("SNAPD_CTR_CRIU")}
	c, err := r.Run(ctx, "demo-runc", rootfs, []string{"python3", server, "--mb", "150"}, baseline.Listens(8080))
	if err != nil {
		return nil, err
	}
	if _, err := r.Checkpoint(ctx, c); err != nil {
		return nil, err
	}
	var out []float64
	for i := range 5 {
		name := fmt.Sprintf("demo-runc-%d", i)
		took, err := r.Restore(ctx, c, name)
		if err != nil {
			return nil, err
		}
		out = append(out, millis(took))
		if err := r.Delete(ctx, name); err != nil {
			return nil, err
		}
	}
	return out, r.Delete(ctx, c.Name)
}

// settled waits until the background has brought all memory, and notes how much each clone then has of its own.
func settled(ctx context.Context, rows []row) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; {
		grew := false
		for i := range rows {
			n, err := proc.PrivateBytes(rows[i].Pid)
			if err != nil {
				return err
			}
			grew = grew || n != rows[i].whole
			rows[i].whole = n
		}
		if !grew {
			return nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return ctx.Err()
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func show(rows []row, restored []float64) {
	fmt.Printf("\n%-14s %10s %16s %14s %12s   %s\n", "", "clone", "first response", "private then", "and later", "answer")
	var clone, first, private, whole []float64
	for _, r := range rows {
		fmt.Printf("%-14s %7.1f ms %13.1f ms %11.1f MB %9.1f MB   %s\n", r.Name, r.CloneMS, millis(r.first), float64(r.private)/(1<<20), float64(r.whole)/(1<<20), r.answer)
		clone = append(clone, r.CloneMS)
		first = append(first, millis(r.first))
		private = append(private, float64(r.private)/(1<<20))
		whole = append(whole, float64(r.whole)/(1<<20))
	}
	fmt.Printf("%-14s %7.1f ms %13.1f ms %11.1f MB %9.1f MB\n", "median", median(clone), median(first), median(private), median(whole))
	fmt.Printf("%-14s %7.1f ms   (median of %d, of a checkpoint of the same program)\n", "runc restore", median(restored), len(restored))
	fmt.Printf("\nA clone is running %.1f times as fast as runc restores the same program.\n", median(restored)/median(clone))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// cleanUp removes every container and the directory.
func (d demo) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := baseline.Runc{Dir: d.dir}
	errs := []error{r.DeleteAll(ctx)}
	out, err := d.cli(ctx, "ps", "-aq")
	errs = append(errs, err)
	if names := strings.Fields(string(out)); len(names) > 0 {
		_, err := d.cli(ctx, append([]string{"rm", "-f"}, names...)...)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

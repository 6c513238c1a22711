package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/internal/testhost"
	"github.com/snapd-ctr/snapd-ctr/internal/testrootfs"
)

func TestParse(t *testing.T) {
	o, asJSON, err := parse([]string{"-quick", "-many", "7", "-only", "burst,rate", "-json", "x.json", "-python", "/p"})
	if err != nil {
		t.Fatal(err)
	}
	if o.many != 7 || o.clones != quick().clones || o.python != "/p" || asJSON != "x.json" || !slices.Equal(o.only, []string{"burst", "rate"}) {
		t.Errorf("%+v", o)
	}
	if o, _, err = parse(nil); err != nil || o.clones < 200 || o.many != 1000 || o.seconds != 30 {
		t.Errorf("%+v, %v: not what the goals are set for", o, err)
	}
	if _, _, err := parse([]string{"-only", "bursts"}); err == nil || !strings.Contains(err.Error(), "burst64") {
		t.Errorf("error %v does not name the parts", err)
	}
}

func TestSustained(t *testing.T) {
	got, mean, err := sustained(t.Context(), 1, func() error { time.Sleep(time.Millisecond); return nil })
	if err != nil || len(got.Values) != 1 || got.Values[0] < 1 || mean < 1 {
		t.Errorf("%v, mean %g, %v", got, mean, err)
	}
	var calls atomic.Int64
	wrong := errors.New("wrong")
	if _, _, err := sustained(t.Context(), 60, func() error { calls.Add(1); return wrong }); !errors.Is(err, wrong) || calls.Load() != int64(atWork()) {
		t.Errorf("%d calls, %v", calls.Load(), err)
	}
}

func TestEach(t *testing.T) {
	var now, most, done atomic.Int64
	err := each(20, 3, func(i int) error {
		defer now.Add(-1)
		for n := now.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		done.Add(1)
		if i == 7 {
			return errors.New("the eighth")
		}
		return nil
	})
	if err == nil || done.Load() != 20 || most.Load() > 3 {
		t.Errorf("%d done, %d at once, %v", done.Load(), most.Load(), err)
	}
}

func TestAnswers(t *testing.T) {
	var asked atomic.Int64
	l, err := net.Listen("tcp4", fmt.Sprintf("127.78.0.1:%d", port)) // not where others listen
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}}
	s.Start()
	defer s.Close()
	start := time.Now()
	first, err := answers(t.Context(), netip.MustParseAddr("127.78.0.1"), time.Minute)
	if err != nil || first.Before(start) || first.After(time.Now()) || asked.Load() != 3 {
		t.Errorf("answered at %v after %d requests, %v", first, asked.Load(), err)
	}
	if _, err := answers(t.Context(), netip.MustParseAddr("127.77.0.1"), 20*time.Millisecond); err == nil {
		t.Error("nobody listens there, and it answers")
	}
}

// TestParts measures every part once, as small as it can be.
func TestParts(t *testing.T) {
	in := testhost.New(t)
	o := options{clones: 2, rounds: 2, bursts: 1, burst: 2, many: 4, idle: 2, seconds: 1, sizes: [2]int{8, 32}, settle: time.Second, place: place{
		dir: t.TempDir(), root: in.Root, run: in.Run, bridge: in.Bridge, subnet: in.Subnet, cli: in.CLI, shim: in.Shim, criu: in.CRIU,
		busybox: testrootfs.Dir(t, testrootfs.BusyboxName), python: testrootfs.Dir(t, testrootfs.PythonName), full: testrootfs.Dir(t, testrootfs.FullName)}}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	t.Setenv("SNAPD_CTR_SHIM_LINGER", "") // open sets it, for this process and its shims
	b, err := open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	b.measure(ctx)
	for _, f := range b.Failed {
		t.Error(f)
	}
	problems, err := b.svc.Fsck(ctx, false)
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("fsck: %s: %s", p.Where, p.What)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(o.dir, "runc")); err != nil || len(entries) > 0 {
		t.Errorf("runc's containers %v are left, %v", entries, err)
	}
	if got := filled(b.Rows); got < 20 && !t.Failed() {
		t.Errorf("%d columns were measured", got)
	}
	var out bytes.Buffer
	b.print(&out)
	t.Log(out.String())
	if _, err := json.Marshal(b.result); err != nil {
		t.Error(err)
	}
}

// filled counts the columns that have figures, all of which must be positive numbers.
func filled(rows []row) int {
	n := 0
	for i := range rows {
		for _, c := range []string{columnTemplate, columnCRIU, columnRunc} {
			if s := rows[i].column(c); s != nil && s.median() >= 0 {
				n++
			}
		}
	}
	return n
}

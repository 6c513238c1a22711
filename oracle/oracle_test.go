package oracle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// TestOracle has each engine clone random processes. The clones must look like the original and like one another, report
// the same, and find everything in place when they examine themselves.
//
// The template engine may refuse what it has no recipe for, but not much.
func TestOracle(t *testing.T) {
	svc, _ := apitest.Open(t)
	t.Setenv(shim.LingerVariable, "3s") // many seeds at once: a shim must not end between two requests for it
	rootfs := chaosRootfs(t)
	first, last := seeds(t)
	var count tally
	next := make(chan int)
	var wg sync.WaitGroup
	for range 3 * runtime.NumCPU() { // one seed waits for the kernel, for CRIU and for its containers most of the time
		wg.Go(func() {
			for seed := range next {
				t.Run(strconv.Itoa(seed), func(t *testing.T) { count.add(trySeed(t, svc, rootfs, seed)) })
			}
		})
	}
	for seed := first; seed <= last; seed++ {
		next <- seed
	}
	close(next)
	wg.Wait()
	fmt.Printf("oracle: seeds %d-%d: %s\n", first, last, &count)
	if n := last - first + 1; n >= 10 && count.compared < n*8/10 {
		t.Errorf("only %d of %d processes were cloned by all engines", count.compared, n)
	}
}

// trySeed compares the clones of one random process, and returns why there was none by the template engine.
func trySeed(t *testing.T, svc *api.Local, rootfs string, seed int) (refused error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tr := try(ctx, t, svc, api.RunRequest{Name: fmt.Sprintf("seed-%d", seed), Rootfs: rootfs, Args: chaosArgs(seed)}, ready)
	tr.report = report
	all := []witness{tr.original()}
	all = append(all, tr.clones(ctx, all[0])...)
	compareAll(t, all)
	for _, w := range slices.Backward(all) {
		answer, err := ask(w.container, "check")
		if err != nil {
			t.Errorf("%s does not examine itself: %v", w.name, err)
		}
		for _, line := range strings.Split(answer, "\n") {
			if line != "ok" && !explained(line, known("", w.engine)) {
				t.Errorf("%s finds: %s", w.name, line)
			}
		}
	}
	return tr.refused
}

// seeds are the first and the last of the random processes.
func seeds(t *testing.T) (first, last int) {
	t.Helper()
	list := os.Getenv("ORACLE_SEEDS")
	if list == "" {
		list = "20"
	}
	from, to, is := strings.Cut(list, "-")
	if !is {
		from, to = "1", list
	}
	first, err1 := strconv.Atoi(from)
	last, err2 := strconv.Atoi(to)
	if err := errors.Join(err1, err2); err != nil || first > last {
		t.Fatalf("ORACLE_SEEDS=%q: %v", list, err)
	}
	return first, last
}

// tally counts how many processes all engines have cloned, and why others were refused.
type tally struct {
	mu                sync.Mutex
	compared, refused int
	reasons           map[string]int
}

// particular is what tells a reason from the same one of another process.
var particular = regexp.MustCompile(`^.* cannot clone it: |(descriptor|mapping|thread) [0-9a-f-]+: |\d+`)

func (n *tally) add(refused error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if refused == nil {
		n.compared++
		return
	}
	n.refused++
	if n.reasons == nil {
		n.reasons = make(map[string]int)
	}
	reasons := strings.Split(particular.ReplaceAllString(refused.Error(), ""), "; ")
	slices.Sort(reasons)
	for _, why := range slices.Compact(reasons) {
		n.reasons[why]++
	}
}

// String says it in words, the most frequent reason first.
func (n *tally) String() string {
	var reasons []string
	for _, why := range slices.SortedFunc(maps.Keys(n.reasons), func(a, b string) int { return n.reasons[b] - n.reasons[a] }) {
		reasons = append(reasons, fmt.Sprintf("%d× %s", n.reasons[why], why))
	}
	return fmt.Sprintf("%d compared, %d refused by the template engine (%s)", n.compared, n.refused, strings.Join(reasons, ", "))
}

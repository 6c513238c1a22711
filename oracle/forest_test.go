package oracle

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api"
	"github.com/snapd-ctr/snapd-ctr/snapshot/api/apitest"
)

// forestSeeds is how many random trees of processes are tried, unless ORACLE_SEEDS says which.
const forestSeeds = 8

// TestForest has each engine clone random trees of processes.
func TestForest(t *testing.T) {
	svc, _ := apitest.Open(t)
	rootfs := treeRootfs(t, "forest")
	first, last := 1, forestSeeds
	if os.Getenv("ORACLE_SEEDS") != "" {
		first, last = seeds(t)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			tr := try(ctx, t, svc, api.RunRequest{Name: fmt.Sprintf("forest-%d", seed), Rootfs: rootfs, Args: []string{"/forest", fmt.Sprint(seed)}},
				func(c *snapshot.Container) error { _, err := ask(c, "ready"); return err })
			all := []witness{tr.original()}
			all = append(all, tr.clones(ctx, all[0])...)
			if tr.refused != nil {
				t.Error(tr.refused)
			}
			compareAll(t, all)
			for range 2 {
				for _, w := range all {
					if answer, err := ask(w.container, "check"); err != nil || strings.TrimSpace(answer) != "ok" {
						t.Errorf("%s finds: %s %v", w.name, answer, err)
					}
				}
			}
		})
	}
}

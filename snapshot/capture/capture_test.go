package capture

import (
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// TestEveryEffectHasAnAction checks it for both machines: the failure of each step is a matter of package api's tests.
func TestEveryEffectHasAnAction(t *testing.T) {
	actions := new(session).actions()
	used := make(map[snapshot.Effect]bool)
	for _, stop := range []bool{false, true} {
		m := snapshot.CaptureMachine(stop)
		snapshot.NewExecution(m, actions) // panics where one is missing
		for _, e := range m.Effects() {
			used[e] = true
		}
	}
	for e := range actions {
		if !used[e] && e != snapshot.EffectUnstage && e != snapshot.EffectUnfreeze {
			t.Errorf("no machine asks for %s", e)
		}
	}
}

package probe

import (
	"context"
	"errors"
)

// CRIU returns the probe for CRIU. check says whether there is one that is new enough and works; an error of the kind
// [NotSupported] is passed on as it is.
func CRIU(check func(context.Context) error) Probe {
	const name = "criu"
	return Probe{Name: name, Need: "capturing and restoring processes", Required: true, Run: func(ctx context.Context) error {
		err := check(ctx)
		if err == nil || errors.Is(err, ErrNotSupported) {
			return err
		}
		return &NotSupported{Name: name, Why: err.Error(), Remedy: "install CRIU 4.2 or newer, and name it with --criu or SNAPD_CTR_CRIU"}
	}}
}

package capture

import (
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template"
)

// describe changes what of a dump's images cannot be so in clones, and reads them to say what they hold.
func describe(images string, cfg *snapshot.Config) error {
	im, err := criu.Open(images)
	if err != nil {
		return err
	}
	// The mounts of a clone take part in no propagation with a host's, and CRIU cannot make them do so again.
	if err := sandbox.ForgetMasters(images); err != nil {
		return err
	}
	// A clone that runs before all of its memory is there must not outlive the one who brings it.
	if err := im.SetDiesWithParent(); err != nil {
		return err
	}
	// Nobody has sent the tasks of a clone a signal that would explain why a sleep of theirs was cut short.
	if err := im.RepeatCalls(); err != nil {
		return err
	}
	if cfg.Processes, err = im.Processes(); err != nil {
		return err
	}
	if cfg.Listeners, err = im.Listeners(); err != nil {
		return err
	}
	bound, err := im.Bound()
	if err != nil {
		return err
	}
	cfg.Network.Aliases = addresses(bound)
	if cfg.ClosedTCP, err = im.ClosedTCP(); err != nil {
		return err
	}
	cfg.Findings = findings(cfg)
	why, err := template.Refusals(im, cfg)
	if err != nil {
		return err
	}
	cfg.Engines = []snapshot.Verdict{
		{Engine: snapshot.EngineTemplate, OK: len(why) == 0, Why: why},
		{Engine: snapshot.EngineCRIU, OK: true},
	}
	return nil
}

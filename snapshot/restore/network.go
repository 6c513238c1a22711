package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// makeNetns makes the clone's network namespace. On a bridge the clone gets an address of its own; addresses that its
// processes are bound to come along as aliases. Kernel parameters that the container's spec sets for the network are set again.
func (s *session) makeNetns(context.Context) error {
	cfg := &s.r.Config
	s.out.Network = s.r.Record.Network
	if cfg.NetnsKey == "" {
		return nil
	}
	ns, err := sandbox.NewNetns()
	if err != nil {
		return err
	}
	s.netns = ns
	if s.r.Record.Network.Mode == "bridge" {
		if err := s.attach(); err != nil {
			return err
		}
	}
	sysctls, err := sysctls(cfg.Spec)
	if err != nil {
		return err
	}
	return ns.SetSysctls(sysctls)
}

// sysctls returns the kernel parameters that a container's spec sets.
func sysctls(spec []byte) (map[string]string, error) {
	if len(spec) == 0 {
		return nil, nil
	}
	var sp struct {
		Linux struct {
			Sysctl map[string]string `json:"sysctl"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(spec, &sp); err != nil {
		return nil, fmt.Errorf("the container's spec: %w", err)
	}
	return sp.Linux.Sysctl, nil
}

func (s *session) attach() (err error) {
	cfg := &s.r.Config
	var bound []snapshot.Listener
	for _, l := range cfg.Listeners {
		if slices.Contains(cfg.Network.Aliases, l.Address) {
			bound = append(bound, l)
		}
	}
	s.out.Network, err = s.Bridge.Attach(s.netns, s.id, cfg.Network.Aliases, bound)
	return err
}

func (s *session) rmNetns(context.Context) error {
	var err error
	if s.netns != nil {
		err = s.netns.Close()
	}
	if s.r.Record.Network.Mode == "bridge" {
		err = errors.Join(err, s.Bridge.Release(s.id))
	}
	return err
}

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// NewNetwork makes the network namespace of a clone of the snapshot. On a bridge the clone gets an address of its own;
// addresses that its processes are bound to come along as aliases. Kernel parameters that the container's spec sets for the
// network are set again. A clone on the host's network has no namespace of its own: nil.
func (b Bridge) NewNetwork(id string, cfg *snapshot.Config, as snapshot.Network) (ns *Netns, n snapshot.Network, err error) {
	if cfg.NetnsKey == "" {
		return nil, as, nil
	}
	if ns, err = NewNetns(); err != nil {
		return nil, as, err
	}
	n = as
	if as.Mode == "bridge" {
		n, err = b.Attach(ns, id, cfg.Network.Aliases, boundListeners(cfg))
	}
	if err == nil {
		var parameters map[string]string
		if parameters, err = sysctls(cfg.Spec); err == nil {
			err = ns.SetSysctls(parameters)
		}
		if err != nil && as.Mode == "bridge" {
			err = errors.Join(err, b.Release(id))
		}
	}
	if err != nil {
		return nil, as, errors.Join(err, ns.Close())
	}
	return ns, n, nil
}

// boundListeners are the sockets that are bound to one of the captured container's addresses.
func boundListeners(cfg *snapshot.Config) []snapshot.Listener {
	var bound []snapshot.Listener
	for _, l := range cfg.Listeners {
		if slices.Contains(cfg.Network.Aliases, l.Address) {
			bound = append(bound, l)
		}
	}
	return bound
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

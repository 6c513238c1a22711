package template

import (
	"errors"
	"os"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// network is that of a clone which has ended, for another one to have. It has been given another address at once, under
// an id that will be a slot's, or nobody's; until then a directory of that name says whose it is.
type network struct {
	id  string
	ns  *sandbox.Netns
	net snapshot.Network
}

// reusable says whether clones of the snapshot leave their networks as they found them.
func reusable(cfg *snapshot.Config, as snapshot.Network) bool {
	return cfg.NetnsKey != "" && as.Mode == "bridge" && len(cfg.Network.Aliases) == 0 && sandbox.Confined(cfg)
}

// keep takes over the network of a clone that has ended, if it is of use. A clone has no process left then.
func (s *slots) keep(n network) bool {
	s.mu.Lock()
	wanted := !s.closed && s.confined && len(s.used) < s.want
	s.mu.Unlock()
	if !wanted || s.engine.Bridge.Reusable(n.ns, n.net) != nil {
		return false
	}
	next := network{id: snapshot.NewID(), ns: n.ns}
	if err := os.MkdirAll(s.making(next.id), 0o700); err != nil {
		return false
	}
	var err error
	if next.net, err = s.engine.Bridge.Readdress(n.ns, n.id, next.id, n.net, nil, nil); err != nil {
		s.engine.Log.Warn("a network could not be used again", "error", err)
		_ = errors.Join(os.Remove(s.making(next.id)), n.ns.Close())
		return true // it is closed, and has no address any more
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.used) >= s.want {
		_ = s.drop(next)
		return true
	}
	s.used = append(s.used, next)
	return true
}

// again returns a network that has been used, nil where there is none.
func (s *slots) again() *network {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.used) == 0 {
		return nil
	}
	n := s.used[0] // the one that rested longest
	s.used = s.used[1:]
	return &n
}

// give gives a network to the container with the id.
func (s *slots) give(n *network, id string) (snapshot.Network, error) {
	if n.id == id {
		return n.net, nil
	}
	net, err := s.engine.Bridge.Readdress(n.ns, n.id, id, n.net, nil, nil)
	if err != nil {
		err = errors.Join(err, n.ns.Close())
	}
	_ = os.Remove(s.making(n.id)) // the next shim's sweep removes it as well
	return net, err
}

// drop gives a network up.
func (s *slots) drop(n network) error {
	return errors.Join(n.ns.Close(), s.engine.Bridge.Free(n.id, n.net.Address), os.Remove(s.making(n.id)))
}

func (s *slots) making(id string) string {
	return shim.MakingSlot(s.engine.Root, s.like.Record.Snapshot, id)
}

package restore

import (
	"context"
	"errors"
)

func (s *session) makeNetns(context.Context) (err error) {
	s.netns, s.out.Network, err = s.Bridge.NewNetwork(s.id, &s.r.Config, s.r.Record.Network)
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

package main

import (
	"context"
	"errors"

	"github.com/snapd-ctr/snapd-ctr/internal/probe"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
)

// BuildTemplate builds the snapshot's template, unless it is there, and keeps it.
func (p *parent) BuildTemplate(ctx context.Context, r shim.CloneRequest) (snapshot.Template, bool, error) {
	if err := p.configs.read(&r); err != nil {
		return snapshot.Template{}, false, err
	}
	return p.templates.Pin(ctx, r)
}

// Templates lists the templates that are there.
func (p *parent) Templates(context.Context) ([]snapshot.Template, error) {
	return p.templates.Templates(), nil
}

// RemoveTemplate ends the snapshot's template.
func (p *parent) RemoveTemplate(_ context.Context, snap string) error {
	was, err := p.templates.Remove(snap)
	if err == nil && !was {
		return &snapshot.Error{Kind: snapshot.KindNotFound, Op: "template rm", On: snapshot.ShortID(snap),
			Err: errors.New("it has no template"), Hint: "snapd-ctr template ls lists them"}
	}
	return err
}

// checkHost says which capability of this host the template engine misses first.
func checkHost(ctx context.Context) error {
	for _, p := range probe.Template() {
		err := probe.Run(ctx, []probe.Probe{p})[0].Err
		if missing, ok := errors.AsType[*probe.NotSupported](err); ok {
			return &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "template engine", Err: missing,
				Hint: missing.Remedy + "; until then clones are made by the engine criu"}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

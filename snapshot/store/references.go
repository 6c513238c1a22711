package store

import (
	"encoding/json"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// document is what an OCI manifest and an OCI index have that refers to other blobs. Of foreign artifacts no more is
// understood than this.
type document struct {
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`
	Blobs     []v1.Descriptor `json:"blobs"`
	Subject   *v1.Descriptor  `json:"subject"`
}

// references returns the descriptors that a manifest or index blob holds.
func (s *Store) references(d v1.Descriptor) ([]v1.Descriptor, error) {
	b, err := s.readBlob(string(d.Digest))
	if err != nil {
		return nil, err
	}
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, corrupt("read manifest", string(d.Digest), "%w", err)
	}
	refs := append(append(doc.Layers, doc.Manifests...), doc.Blobs...)
	for _, one := range []*v1.Descriptor{doc.Config, doc.Subject} {
		if one != nil {
			refs = append(refs, *one)
		}
	}
	return refs, nil
}

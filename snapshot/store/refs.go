package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// A name is an entry of the index with the annotation that OCI has for it; a snapshot with three names has three
// entries, one with no name has one without the annotation. Entries of other artifact types are not ours: they are
// left alone, and their blobs are kept.

func nameOf(d v1.Descriptor) string { return d.Annotations[v1.AnnotationRefName] }

func isOurs(d v1.Descriptor) bool { return d.ArtifactType == snapshot.ArtifactType }

func entry(name, id string, size int64) v1.Descriptor {
	d := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, ArtifactType: snapshot.ArtifactType,
		Digest: digest.Digest(id), Size: size}
	if name != "" {
		d.Annotations = map[string]string{v1.AnnotationRefName: name}
	}
	return d
}

func find(x *v1.Index, name string) int {
	return slices.IndexFunc(x.Manifests, func(d v1.Descriptor) bool { return nameOf(d) == name })
}

func taken(op, name string) error {
	return &snapshot.Error{Kind: snapshot.KindExists, Op: op, On: name, Err: errors.New("the name is taken"),
		Hint: fmt.Sprintf("choose another name, or remove the snapshot first: `snapd-ctr snapshots rm %s`", name)}
}

// checkFree says whether a publication may take the name.
func (s *Store) checkFree(name string, replace bool) error {
	x, err := s.readIndex()
	if err != nil {
		return err
	}
	if i := find(x, name); i >= 0 && (!replace || !isOurs(x.Manifests[i])) {
		return taken("publish", name)
	}
	return nil
}

// enter makes a manifest visible under a name. Its blobs must be durable.
func (s *Store) enter(name, id string, size int64, m *v1.Manifest, replace bool) error {
	return s.changeIndex(func(x *v1.Index) error {
		for _, l := range append([]v1.Descriptor{m.Config}, m.Layers...) {
			if err := s.present(l); err != nil {
				return err
			}
		}
		if name != "" {
			if i := find(x, name); i >= 0 {
				if !replace || !isOurs(x.Manifests[i]) {
					return taken("publish", name)
				}
				x.Manifests = slices.Delete(x.Manifests, i, i+1)
			}
		}
		put(x, entry(name, id, size))
		return nil
	})
}

// put adds an entry. A snapshot has a nameless entry only while it has no name.
func put(x *v1.Index, d v1.Descriptor) {
	if nameOf(d) == "" && slices.ContainsFunc(x.Manifests, func(o v1.Descriptor) bool { return o.Digest == d.Digest }) {
		return
	}
	x.Manifests = slices.DeleteFunc(x.Manifests, func(o v1.Descriptor) bool {
		return isOurs(o) && o.Digest == d.Digest && nameOf(o) == ""
	})
	x.Manifests = append(x.Manifests, d)
}

// changeIndex applies a change to the index under the store's lock.
func (s *Store) changeIndex(change func(*v1.Index) error) error {
	l, err := s.lockStore(true)
	if err != nil {
		return err
	}
	defer l.Close()
	x, err := s.readIndex()
	if err != nil {
		return err
	}
	if err := change(x); err != nil {
		return err
	}
	return s.commitIndex(x)
}

// Resolve returns the id of the snapshot that ref means: a name, an id, its hexadecimal digits, or a unique beginning
// of them. A name wins over digits.
func (s *Store) Resolve(ref string) (string, error) {
	x, err := s.readIndex()
	if err != nil {
		return "", err
	}
	return resolve(x, ref)
}

func resolve(x *v1.Index, ref string) (string, error) {
	if ref == "" {
		return "", invalid("find snapshot", "", "give a name or an id", "no snapshot was named")
	}
	var ids, names []string
	for _, d := range x.Manifests {
		if !isOurs(d) {
			continue
		}
		id := string(d.Digest)
		if nameOf(d) == ref || id == ref {
			return id, nil
		}
		if name := nameOf(d); name != "" {
			names = append(names, name)
		}
		if prefix := hexOf(ref); prefix != "" && strings.HasPrefix(hexOf(id), prefix) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 1:
		return ids[0], nil
	case 0:
		return "", &snapshot.Error{Kind: snapshot.KindNotFound, Op: "find snapshot", On: ref,
			Err: errors.New("there is none of that name or id"), Hint: suggest(ref, names)}
	}
	for i, id := range ids {
		ids[i] = snapshot.ShortID(id)
	}
	slices.Sort(ids)
	return "", invalid("find snapshot", ref, "give more digits: "+strings.Join(ids, ", "), "%d snapshots begin so", len(ids))
}

// suggest returns a hint with the names that look like ref.
func suggest(ref string, names []string) string {
	var close []string
	for _, n := range names {
		if distance(ref, n) <= 1+len(ref)/4 || len(ref) > 2 && (strings.HasPrefix(n, ref) || strings.HasPrefix(ref, n)) {
			close = append(close, n)
		}
	}
	if len(close) == 0 {
		return "`snapd-ctr snapshots ls` lists what there is"
	}
	slices.Sort(close)
	return "did you mean " + strings.Join(slices.Compact(close), ", ") + "?"
}

// distance is the number of letters to insert, delete or change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// NameTaken says whether a publication under the name would have to replace something.
func (s *Store) NameTaken(name string) (bool, error) {
	x, err := s.readIndex()
	if err != nil {
		return false, err
	}
	return find(x, name) >= 0, nil
}

// Tag gives the snapshot one more name. A name that another snapshot has is KindExists.
func (s *Store) Tag(ref, name string) error {
	if err := snapshot.CheckName(name); err != nil {
		return err
	}
	err := s.changeIndex(func(x *v1.Index) error {
		id, err := resolve(x, ref)
		if err != nil {
			return err
		}
		if i := find(x, name); i >= 0 {
			if string(x.Manifests[i].Digest) == id {
				return nil
			}
			return taken("tag", name)
		}
		i := slices.IndexFunc(x.Manifests, func(d v1.Descriptor) bool { return string(d.Digest) == id })
		put(x, entry(name, id, x.Manifests[i].Size))
		return nil
	})
	return failure("tag", ref, err)
}

// Remove removes a name, and the snapshot with its last name; given an id, the snapshot with all its names. Blobs and
// caches stay until GC, and clones that run are not disturbed.
func (s *Store) Remove(ref string) error {
	err := s.changeIndex(func(x *v1.Index) error {
		id, err := resolve(x, ref)
		if err != nil {
			return err
		}
		byName := find(x, ref) >= 0
		x.Manifests = slices.DeleteFunc(x.Manifests, func(d v1.Descriptor) bool {
			return isOurs(d) && string(d.Digest) == id && (!byName || nameOf(d) == ref)
		})
		return nil
	})
	return failure("remove snapshot", ref, err)
}

package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// rebuild writes a lost or damaged index anew: with what can still be read of it, and with every snapshot whose
// manifest is among the blobs. That includes snapshots that were removed and not yet collected. Names are in the index
// alone: those that cannot be read are lost, and their snapshots are found by their ids.
func (c *checker) rebuild(ctx context.Context, cause error) error {
	x := emptyIndex()
	for _, d := range c.s.salvage() {
		if c.has(string(d.Digest)) && !c.damaged[string(d.Digest)] && (nameOf(d) == "" || find(x, nameOf(d)) < 0) {
			put(x, d)
		}
	}
	nameless := 0
	for d, bad := range c.damaged {
		if err := ctx.Err(); err != nil {
			return err
		}
		if bad || c.live[d] { // what a lease holds is not published yet
			continue
		}
		size, ok := c.manifestSize(d)
		if !ok || slices.ContainsFunc(x.Manifests, func(e v1.Descriptor) bool { return string(e.Digest) == d }) {
			continue
		}
		put(x, entry("", d, size))
		nameless++
	}
	slices.SortStableFunc(x.Manifests, func(a, b v1.Descriptor) int { return bytes.Compare([]byte(a.Digest), []byte(b.Digest)) })
	what := fmt.Sprintf("%v; %d entries can be written anew, %d of them without the name they had", cause, len(x.Manifests), nameless)
	err := c.found(fileIndex, what, remedyRepair, func() error {
		if _, err := os.Lstat(c.s.path(fileIndex)); err == nil {
			if err := c.quarantine(fileIndex); err != nil {
				return err
			}
		}
		return c.s.writeIndex(x)
	})
	if err == nil && c.repair && nameless > 0 {
		c.problems[len(c.problems)-1].Remedy = "name them: `snapd-ctr snapshots ls`, `snapd-ctr snapshots tag ID NAME`"
	}
	return err
}

// salvage returns the entries of a damaged index as far as it can be read.
func (s *Store) salvage() (list []v1.Descriptor) {
	b, err := os.ReadFile(s.path(fileIndex))
	if err != nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	for {
		t, err := dec.Token()
		if err != nil {
			return nil
		}
		if t == "manifests" {
			break
		}
	}
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil
	}
	for dec.More() {
		var d v1.Descriptor
		if err := dec.Decode(&d); err != nil {
			return list
		}
		if checkDigest(string(d.Digest)) == nil && (nameOf(d) == "" || !isOurs(d) || snapshot.CheckName(nameOf(d)) == nil) {
			list = append(list, d)
		}
	}
	return list
}

// manifestSize says whether a blob is the manifest of a snapshot whose config is there, and how large it is.
func (c *checker) manifestSize(digest string) (int64, bool) {
	st, err := os.Stat(c.s.blobPath(digest))
	if err != nil || st.Size() > maxJSON {
		return 0, false
	}
	m, size, err := c.s.readManifest(digest)
	if err != nil {
		return 0, false
	}
	b, err := c.s.readBlob(string(m.Config.Digest))
	return size, err == nil && decodeConfig(b, digest, new(snapshot.Config)) == nil
}

// badIndex makes the error of an index that cannot be read.
func (s *Store) badIndex(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("it is missing")
	}
	return &snapshot.Error{Kind: snapshot.KindCorrupt, Op: "read index", On: s.path(fileIndex), Err: err,
		Hint: "`snapd-ctr fsck --repair` writes it anew from what is in the store"}
}

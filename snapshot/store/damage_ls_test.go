package store_test

import (
	"os"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

func TestListNotesMissingBlobs(t *testing.T) {
	s := openDamaged(t)
	whole := publish(t, s, "whole", sample{seed: 1})
	gone, short := publish(t, s, "gone", sample{seed: 2}), publish(t, s, "short", sample{seed: 3})
	path, _ := blobOf(t, s, gone, snapshot.RolePages)
	must(t, os.Remove(path))
	path, _ = blobOf(t, s, gone, snapshot.RoleRootfs)
	must(t, os.Remove(path))
	path, _ = blobOf(t, s, short, snapshot.RolePages)
	must(t, os.Truncate(path, 4096))
	list, err := s.List()
	must(t, err)
	for _, sn := range list {
		want := map[string]string{whole.ID: "", gone.ID: "2 of 5 blobs missing or cut short", short.ID: "1 of 5 blobs missing or cut short"}[sn.ID]
		if sn.Damage != want {
			t.Errorf("of %q it says %q, want %q", sn.Names, sn.Damage, want)
		}
	}
	if len(list) != 3 {
		t.Errorf("%d snapshots are listed", len(list))
	}
}
